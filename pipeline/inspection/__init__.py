"""Looking into a model: moments drawn, the species of one query followed, learned rates as a dynamical system."""
