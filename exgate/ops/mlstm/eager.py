from exgate.ops.mlstm.reference import refuses, run  # replaced shortly
