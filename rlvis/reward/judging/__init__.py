"""What scorers are made of that are more than a module: trunks, towers, rules and instructions."""
