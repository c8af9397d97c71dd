"""The panels of a report, a function each: from what a run left to plain values that a template shows.

A panel that lacks its data says so in `note` instead of being left out; one about a method that the run did
not use is None, and a tab of which all panels are None is left out. To add one: write a function, name it in
`tabs`, and use a kind that exists or add templates/KIND.html.j2.
"""
