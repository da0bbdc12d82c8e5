"""Methods of other papers that HD-Painter is compared with."""
