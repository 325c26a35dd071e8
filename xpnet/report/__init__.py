"""The page of a run: how good it is, where it fails, whether it has converged.

It is drawn from plain data, :class:`~xpnet.report.charts.Chart` by chart; what a run has to show is
gathered by :mod:`xpnet.run`. Other rooms draw with :mod:`xpnet.report.charts`, too.
"""
