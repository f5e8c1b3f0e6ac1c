"""Contenders of `benchmarks.fetch`: each fetches the model.json at a URL once, in a process of its own.

What is asked of all of them is what a fetch is for: the arrays of the model in memory. The clients for anything over
HTTP get help that favours them: the files go into one allocation, each to its place by the sizes known beforehand,
eight at a time, without any check.
"""
