"""Whether the tests would notice a mistake: they are run on modules with one small change each."""
