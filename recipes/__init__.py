"""Recipes: the few lines in which a task differs from conf/."""
