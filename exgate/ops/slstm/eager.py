from exgate.ops.slstm.reference import refuses, run  # replaced shortly
