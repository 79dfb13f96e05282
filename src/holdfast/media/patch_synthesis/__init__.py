"""Propagate edited frames through a clip by guided patch synthesis (EbSynth), with NumPy and OpenCV, without a model.

Jamriska et al., "Stylizing Video by Example" (ACM TOG 38(4), 2019); Fiser et al., "Example-Based Synthesis of Stylized
Facial Animations" (ACM TOG 36(4), 2017); PatchMatch: Barnes et al. (ACM TOG 28(3), 2009).

energy.py: the energy of a nearest-neighbour field; patch_match.py: its search; synthesis.py: search and vote over a
pyramid; guides.py: what frames are compared by; blending.py: two results between keyframes; propagation.py: a clip.
"""
