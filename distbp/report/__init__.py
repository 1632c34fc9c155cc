"""Reports on runs: one HTML file that needs nothing else, or its figures as pictures.

In the order in which to read them:

    reported_run         what a run has left in its directory, as a `ReportedRun`
    curves               numbers over epochs, reduced to their range if there are many
    findings             a model's outputs for test or validation rows, and the worst of them
    palette              colors by their roles, in light and dark
    pictures             rows and weights as images
    plots                figures by matplotlib: pure functions of numbers
    figures              a figure as SVG of a page, or as a PNG file
    wording              numbers, times and names as text
    elements             notes, tables, figures: what a `Page` consists of
    learning_contents    learning curves
    prediction_contents  confusions, residuals, worst errors, weights of the first layer
    run_contents         time, faults, configuration, digests
    contents             `make_page`: everything about one run, or several compared
    page                 a `Page` as HTML (`templates/`), or its figures as files

A report is read from files, without a lock: the run may be going on. It is written for people who
open it years later, from a mail, on a phone, on paper, or by a screen reader: the page has no
script, loads nothing, follows the color scheme of its reader, and says in a sentence what each
figure shows.

Needs the extra `report`: matplotlib and jinja2.
"""
