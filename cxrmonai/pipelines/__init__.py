"""Work of several runs: what one command makes of many trainings and evaluations."""
