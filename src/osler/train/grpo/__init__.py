"""Group relative policy optimisation: advantage, loss, trainer."""
