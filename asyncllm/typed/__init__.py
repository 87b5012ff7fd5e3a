"""Answers as values of Python types: `schemas` says what is asked for, `output` reads it, `partial` reads it early."""
