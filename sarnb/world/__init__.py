"""The twin world: one scene in metres, seen by a camera (``optical``) and by a radar (``radar``)."""
