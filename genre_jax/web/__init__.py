"""The page in which a song tags itself: a static folder with the network, the runtime onnxruntime-web, and a small script.

`folder.write` makes the folder, `npm` gets the runtime, `songs` turns an index into what the page shows, and `page/` has the
files of the page. `genre_jax.serve` opens the folder on this machine.
"""
