"""Workers: handlers, projections and periodic work of one program, in one object."""
