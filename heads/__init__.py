"""Fused clips -> predictions and losses: eqs. (12)-(17).

spans: geometry of time spans. saliency, moment: the heads. matcher: one-to-one assignment.
losses: what is minimised.
"""
