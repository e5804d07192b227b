"""Data: from the twin world, SARLO-80, products of sensors or the user's own radar images to one imagefolder that everything later reads.

All roads end in the same layout, which ``datasets.load_dataset("imagefolder", data_dir=...)`` opens too::

    out/card.json                    what the set is: counts, scaling, source, licence, whether scene truth exists
    out/README.md                    the same for people and for the Hugging Face hub
    out/{train,val,test,judge}/      000000.png … (8-bit grey) and metadata.jsonl, one row an image
    out/<split>/{optical,mask,satellite,height}/    the twin pictures of the same scenes, where truth exists

``twin`` draws it, ``prepare`` makes it of the user's images (found by ``imagefolder``, opened by ``images``, scaled by
``amplitude``), ``sarlo80`` streams shards into it, ``products`` reads what sensors deliver and ``patches`` cuts it, ``dataset``
reads it back. ``measured`` reads real images to compare with.
"""
