"""YAML only. This file makes the folder ship with the wheel and be found from anywhere."""
