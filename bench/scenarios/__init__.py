"""Named scenarios: how the numbers of a model change on harder images, or on part of the images.

A *selecting* scenario scores some of the images or objects, an *altering* one changes the pixels and moves the truth
along. Both run without torch, and selecting ones on predictions made elsewhere.
"""
