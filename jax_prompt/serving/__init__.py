"""Answering requests over HTTP with one frozen model and a folder of prompts."""
