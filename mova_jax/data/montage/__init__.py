"""Long videos made of captioned pictures or clips, with known truth.

A montage shows one picture (or clip) after the other, each for some seconds; its caption is the
sentences of some of them, timed, in the order in which they are shown. So length, emptiness and
truth are under control, and pixels and sentences are real.
"""
