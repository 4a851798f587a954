"""Where a generator fails: the fakes least like any real image, the real ones that none covers."""
