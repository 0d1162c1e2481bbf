"""Methods of other papers in at most 60 lines each, composed of memkit's parts; see docs/neighbours.md."""
