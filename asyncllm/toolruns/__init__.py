"""Conversations in which a model has Python functions called, until it answers.

`toolbox` runs the calls of one answer, `rounds` asks again and again, `stream` shows all of it as it happens.
"""
