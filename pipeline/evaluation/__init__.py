"""The protocol: predictions and truth to numbers. It knows no model and no run.

evaluate.py                  all of it
predictions.py truth.py      what is judged, and by what           pairing.py plausibility.py   side by side, or refused
per_query.py columns.py      the table that numbers are means of   metrics.py highlights.py     moments, highlights
official.py headline.py      the evaluators' keys; the few shown   groups.py query_kinds.py     by kind of query
intervals.py seed_intervals.py significance.py                     how far a number is to be trusted
remarks.py post_processing.py                                      what readers should know; what users may change
"""
