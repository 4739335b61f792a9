"""Questions from files: read, check, split and convert, without any model.

`load.load_questions` is the one entrance; every reader below it turns one format into `Question` records.
"""
