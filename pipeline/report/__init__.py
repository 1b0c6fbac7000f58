"""One self-contained page about what systems say of a split: tables, figures, and every query to look at.

judged.py      the systems, judged on the same queries          settings.py    what differs between runs
recall.py  grouped.py  calibration.py  sharpness.py  smoothing.py  examples.py    one question each, numbers out
collect.py     all of it: a Report              accuracy.py  behaviour.py  document.py   a Report as sections
svg.py  figures.py   charts as SVG text         page.py  page.html  style.css  markdown.py  write.py   a file of them
browser.py  browser.js   every query, its truth and predictions
"""
