"""Public checkpoint formats, to and from open_clip's `visual.*`.

Sources: transformers' CLIP classes, state dicts of open_clip and of the ImageEncoder of the papers'
code, pickles of whole modules, LoRA adapters of PEFT. Targets: the files that merging reads, a
transformers folder, an open_clip folder.
"""
