"""Compare quantizers on real data: data sets, exact neighbours, measures, plans, runs and reports."""
