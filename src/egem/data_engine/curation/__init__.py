"""What happens to records after they are made: leave out, mix, publish. Shards go in, a new folder comes out.

selection.py        some groups of some folders, written anew: what all others end in
perceptual_hash.py  pictures that look alike have hashes that differ in few bits
picture_hashes.py   the hashes of a folder's pictures, computed once
dedupe.py           records that say the same about the same pictures
leakage.py          pictures that a benchmark has too
filters.py          rules that a record must keep, rejections counted by rule
mixture.py          exact counts or weights by category and source; mixture_recipes.py the named ones
mixture_card.py     what a mixture is made of, for people and programs
licences.py         what may be passed on; hub_export.py a folder for the Hugging Face hub
"""
