"""Data: from the twin world, or from the user's own radar images, to one imagefolder that everything later reads.

Both roads end in the same layout, which ``datasets.load_dataset("imagefolder", data_dir=...)`` opens too::

    out/card.json                    what the set is: counts, scaling, source, licence, whether scene truth exists
    out/{train,val,test,judge}/      000000.png … (8-bit grey) and metadata.jsonl, one row an image
    out/<split>/{optical,mask}/      the twin pictures of the same scenes, where truth exists

``twin`` draws it, ``folder`` makes it of the user's images (read by ``images``, scaled by ``amplitude``), ``dataset``
reads it back.
"""
