"""The parts of the TFLite schema that are plain lists: operators, element types, option tables.

Source: the schema itself, version 3 (schema.fbs in tensorflow/tensorflow, google-ai-edge/LiteRT),
checked against the generated Python schema of the installed runtime by the tests.
"""

from __future__ import annotations

from typing import Final, NamedTuple

_OPERATORS = """
    ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE
    EMBEDDING_LOOKUP FLOOR FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D
    LOCAL_RESPONSE_NORMALIZATION LOGISTIC LSH_PROJECTION LSTM MAX_POOL_2D MUL RELU RELU_N1_TO_1
    RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH SVDF TANH CONCAT_EMBEDDINGS SKIP_GRAM
    CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD UNIDIRECTIONAL_SEQUENCE_RNN GATHER BATCH_TO_SPACE_ND
    SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE
    BIDIRECTIONAL_SEQUENCE_RNN EXP TOPK_V2 SPLIT LOG_SOFTMAX DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM
    CAST PRELU MAXIMUM ARG_MAX MINIMUM LESS NEG PADV2 GREATER GREATER_EQUAL LESS_EQUAL SELECT SLICE
    SIN TRANSPOSE_CONV SPARSE_TO_DENSE TILE EXPAND_DIMS EQUAL NOT_EQUAL LOG SUM SQRT RSQRT SHAPE
    POW ARG_MIN FAKE_QUANT REDUCE_PROD REDUCE_MAX PACK LOGICAL_OR ONE_HOT LOGICAL_AND LOGICAL_NOT
    UNPACK REDUCE_MIN FLOOR_DIV REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD RANGE
    RESIZE_NEAREST_NEIGHBOR LEAKY_RELU SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL
    REVERSE_V2 ADD_N GATHER_ND COS WHERE RANK ELU REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE
    MATRIX_SET_DIAG ROUND HARD_SWISH IF WHILE NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5
    SCATTER_ND SELECT_V2 DENSIFY SEGMENT_SUM BATCH_MATMUL PLACEHOLDER_FOR_GREATER_OP_CODES CUMSUM
    CALL_ONCE BROADCAST_TO RFFT2D CONV_3D IMAG REAL COMPLEX_ABS HASHTABLE HASHTABLE_FIND
    HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL CONV_3D_TRANSPOSE VAR_HANDLE READ_VARIABLE
    ASSIGN_VARIABLE BROADCAST_ARGS RANDOM_STANDARD_NORMAL BUCKETIZE RANDOM_UNIFORM MULTINOMIAL GELU
    DYNAMIC_UPDATE_SLICE RELU_0_TO_1 UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_MAX
    UNSORTED_SEGMENT_SUM ATAN2 UNSORTED_SEGMENT_MIN SIGN BITCAST BITWISE_XOR RIGHT_SHIFT
    STABLEHLO_LOGISTIC STABLEHLO_ADD STABLEHLO_DIVIDE STABLEHLO_MULTIPLY STABLEHLO_MAXIMUM
    STABLEHLO_RESHAPE STABLEHLO_CLAMP STABLEHLO_CONCATENATE STABLEHLO_BROADCAST_IN_DIM
    STABLEHLO_CONVOLUTION STABLEHLO_SLICE STABLEHLO_CUSTOM_CALL STABLEHLO_REDUCE STABLEHLO_ABS
    STABLEHLO_AND STABLEHLO_COSINE STABLEHLO_EXPONENTIAL STABLEHLO_FLOOR STABLEHLO_LOG
    STABLEHLO_MINIMUM STABLEHLO_NEGATE STABLEHLO_OR STABLEHLO_POWER STABLEHLO_REMAINDER
    STABLEHLO_RSQRT STABLEHLO_SELECT STABLEHLO_SUBTRACT STABLEHLO_TANH STABLEHLO_SCATTER
    STABLEHLO_COMPARE STABLEHLO_CONVERT STABLEHLO_DYNAMIC_SLICE STABLEHLO_DYNAMIC_UPDATE_SLICE
    STABLEHLO_PAD STABLEHLO_IOTA STABLEHLO_DOT_GENERAL STABLEHLO_REDUCE_WINDOW STABLEHLO_SORT
    STABLEHLO_WHILE STABLEHLO_GATHER STABLEHLO_TRANSPOSE DILATE STABLEHLO_RNG_BIT_GENERATOR
    REDUCE_WINDOW STABLEHLO_COMPOSITE STABLEHLO_SHIFT_LEFT STABLEHLO_CBRT STABLEHLO_CASE
"""

_DTYPES = """
    float32 float16 int32 uint8 int64 string bool int16 complex64 int8 float64 complex128 uint64
    resource variant uint32 uint16 int4 bfloat16 int2 uint4 float8_e4m3fn float8_e5m2
"""

OPERATOR_NAMES: Final[tuple[str, ...]] = tuple(_OPERATORS.split())
"""Names of the builtin operators, by code."""

CUSTOM: Final = OPERATOR_NAMES.index("CUSTOM")
"""The code of an operator whose name is in the file."""

DTYPES: Final[tuple[str, ...]] = tuple(_DTYPES.split())
"""Names of the element types, by code; NumPy's where NumPy has the type."""

DTYPE_BITS: Final[dict[str, int]] = {
    **dict.fromkeys(("int2",), 2),
    **dict.fromkeys(("int4", "uint4"), 4),
    **dict.fromkeys(("int8", "uint8", "bool", "float8_e4m3fn", "float8_e5m2"), 8),
    **dict.fromkeys(("int16", "uint16", "float16", "bfloat16"), 16),
    **dict.fromkeys(("int32", "uint32", "float32"), 32),
    **dict.fromkeys(("int64", "uint64", "float64", "complex64"), 64),
    **dict.fromkeys(("complex128",), 128),
}
"""Bits of one element. "string", "resource" and "variant" are left out: they have no fixed size."""

PADDINGS: Final = ("SAME", "VALID")
ACTIVATIONS: Final = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT")


class OptionField(NamedTuple):
    """One field of an option table.

    Attributes:
        name: the schema's, without the suffixes `_function` and `_factor`.
        kind: int, uint, long, byte, float, bool, string, bytes; ints, uints, longs, floats, bools;
            padding, activation and dtype for what reads as a name; subgraph and subgraphs for
            indices of subgraphs that the operator runs; skip for what no runtime reads any more.
        default: what an absent field means.
    """

    name: str
    kind: str
    default: int


class OptionTable(NamedTuple):
    """The fields of one option table, in the order of their slots."""

    name: str
    fields: tuple[OptionField, ...]


def _parse(text: str) -> dict[int, OptionTable]:
    """Reads the notation below: "number name field:kind=default ...", indented where it goes on."""
    tables = {}
    for line in text.strip().replace("\n    ", " ").splitlines():
        number, name, *fields = line.split()
        rows = []
        for field in fields:
            field_name, _, rest = field.partition(":")
            kind, _, default = rest.partition("=")
            rows.append(OptionField(field_name, kind, int(default or 0)))
        tables[int(number)] = OptionTable(name, tuple(rows))
    return tables


BUILTIN_OPTIONS: Final = _parse("""
1 Conv2DOptions padding:padding stride_w:int stride_h:int fused_activation:activation
    dilation_w:int=1 dilation_h:int=1 quantized_bias_type:dtype
2 DepthwiseConv2DOptions padding:padding stride_w:int stride_h:int depth_multiplier:int
    fused_activation:activation dilation_w:int=1 dilation_h:int=1
3 ConcatEmbeddingsOptions num_channels:int num_columns_per_channel:ints
    embedding_dim_per_channel:ints
4 LSHProjectionOptions type:byte
5 Pool2DOptions padding:padding stride_w:int stride_h:int filter_width:int filter_height:int
    fused_activation:activation
6 SVDFOptions rank:int fused_activation:activation asymmetric_quantize_inputs:bool
7 RNNOptions fused_activation:activation asymmetric_quantize_inputs:bool
8 FullyConnectedOptions fused_activation:activation weights_format:byte keep_num_dims:bool
    asymmetric_quantize_inputs:bool quantized_bias_type:dtype quant_spec:bytes
9 SoftmaxOptions beta:float
10 ConcatenationOptions axis:int fused_activation:activation
11 AddOptions fused_activation:activation pot_scale_int16:bool=1
12 L2NormOptions fused_activation:activation
13 LocalResponseNormalizationOptions radius:int bias:float alpha:float beta:float
14 LSTMOptions fused_activation:activation cell_clip:float proj_clip:float kernel_type:byte
    asymmetric_quantize_inputs:bool
15 ResizeBilinearOptions new_height:skip new_width:skip align_corners:bool half_pixel_centers:bool
16 CallOptions subgraph:subgraph
17 ReshapeOptions new_shape:ints
18 SkipGramOptions ngram_size:int max_skip_size:int include_all_ngrams:bool
19 SpaceToDepthOptions block_size:int
20 EmbeddingLookupSparseOptions combiner:byte
21 MulOptions fused_activation:activation
22 PadOptions
23 GatherOptions axis:int batch_dims:int
24 BatchToSpaceNDOptions
25 SpaceToBatchNDOptions
26 TransposeOptions
27 ReducerOptions keep_dims:bool
28 SubOptions fused_activation:activation pot_scale_int16:bool=1
29 DivOptions fused_activation:activation
30 SqueezeOptions squeeze_dims:ints
31 SequenceRNNOptions time_major:bool fused_activation:activation asymmetric_quantize_inputs:bool
32 StridedSliceOptions begin_mask:int end_mask:int ellipsis_mask:int new_axis_mask:int
    shrink_axis_mask:int offset:bool
33 ExpOptions
34 TopKV2Options
35 SplitOptions num_splits:int
36 LogSoftmaxOptions
37 CastOptions in_data_type:dtype out_data_type:dtype
38 DequantizeOptions
39 MaximumMinimumOptions
40 ArgMaxOptions output_type:dtype
41 LessOptions
42 NegOptions
43 PadV2Options
44 GreaterOptions
45 GreaterEqualOptions
46 LessEqualOptions
47 SelectOptions
48 SliceOptions
49 TransposeConvOptions padding:padding stride_w:int stride_h:int fused_activation:activation
    quantized_bias_type:dtype
50 SparseToDenseOptions validate_indices:bool
51 TileOptions
52 ExpandDimsOptions
53 EqualOptions
54 NotEqualOptions
55 ShapeOptions out_type:dtype
56 PowOptions
57 ArgMinOptions output_type:dtype
58 FakeQuantOptions min:float max:float num_bits:int narrow_range:bool
59 PackOptions values_count:int axis:int
60 LogicalOrOptions
61 OneHotOptions axis:int
62 LogicalAndOptions
63 LogicalNotOptions
64 UnpackOptions num:int axis:int
65 FloorDivOptions
66 SquareOptions
67 ZerosLikeOptions
68 FillOptions
69 BidirectionalSequenceLSTMOptions fused_activation:activation cell_clip:float proj_clip:float
    merge_outputs:bool time_major:bool=1 asymmetric_quantize_inputs:bool
70 BidirectionalSequenceRNNOptions time_major:bool fused_activation:activation merge_outputs:bool
    asymmetric_quantize_inputs:bool
71 UnidirectionalSequenceLSTMOptions fused_activation:activation cell_clip:float proj_clip:float
    time_major:bool asymmetric_quantize_inputs:bool diagonal_recurrent_tensors:bool
72 FloorModOptions
73 RangeOptions
74 ResizeNearestNeighborOptions align_corners:bool half_pixel_centers:bool
75 LeakyReluOptions alpha:float
76 SquaredDifferenceOptions
77 MirrorPadOptions mode:byte
78 AbsOptions
79 SplitVOptions num_splits:int
80 UniqueOptions idx_out_type:dtype=2
81 ReverseV2Options
82 AddNOptions
83 GatherNdOptions
84 CosOptions
85 WhereOptions
86 RankOptions
87 ReverseSequenceOptions seq_dim:int batch_dim:int
88 MatrixDiagOptions
89 QuantizeOptions
90 MatrixSetDiagOptions
91 HardSwishOptions
92 IfOptions then_subgraph_index:subgraph else_subgraph_index:subgraph
93 WhileOptions cond_subgraph_index:subgraph body_subgraph_index:subgraph
94 DepthToSpaceOptions block_size:int
95 NonMaxSuppressionV4Options
96 NonMaxSuppressionV5Options
97 ScatterNdOptions
98 SelectV2Options
99 DensifyOptions
100 SegmentSumOptions
101 BatchMatMulOptions adj_x:bool adj_y:bool asymmetric_quantize_inputs:bool
102 CumsumOptions exclusive:bool reverse:bool
103 CallOnceOptions init_subgraph_index:subgraph
104 BroadcastToOptions
105 Rfft2dOptions
106 Conv3DOptions padding:padding stride_d:int stride_w:int stride_h:int
    fused_activation:activation dilation_d:int=1 dilation_w:int=1 dilation_h:int=1
107 HashtableOptions table_id:int key_dtype:dtype value_dtype:dtype
108 HashtableFindOptions
109 HashtableImportOptions
110 HashtableSizeOptions
111 VarHandleOptions container:string shared_name:string
112 ReadVariableOptions
113 AssignVariableOptions
114 RandomOptions seed:long seed2:long
115 BucketizeOptions boundaries:floats
116 GeluOptions approximate:bool
117 DynamicUpdateSliceOptions
118 UnsortedSegmentProdOptions
119 UnsortedSegmentMaxOptions
120 UnsortedSegmentMinOptions
121 UnsortedSegmentSumOptions
122 ATan2Options
123 SignOptions
124 BitcastOptions
125 BitwiseXorOptions
126 RightShiftOptions
""")
"""The tables that `Operator.builtin_options` can hold, by union type."""

BUILTIN_OPTIONS_2: Final = _parse("""
1 StablehloConcatenateOptions dimension:long
2 StablehloBroadcastInDimOptions broadcast_dimensions:longs
3 StablehloSliceOptions start_indices:longs limit_indices:longs strides:longs
4 StablehloConvolutionOptions window_strides:longs padding:longs lhs_dilation:longs
    rhs_dilation:longs window_reversal:bools input_batch_dimension:long
    input_feature_dimension:long input_spatial_dimensions:longs kernel_input_feature_dimension:long
    kernel_output_feature_dimension:long kernel_spatial_dimensions:longs
    output_batch_dimension:long output_feature_dimension:long output_spatial_dimensions:longs
    feature_group_count:long batch_group_count:long precision_config:uints
5 StablehloCustomCallOptions call_target_name:string has_side_effect:bool backend_config:string
    api_version:int called_computations:subgraphs custom_attributes:bytes
6 StablehloReduceOptions dimensions:longs body_subgraph_index:subgraph
7 StablehloScatterOptions indices_are_sorted:bool update_window_dims:longs
    inserted_window_dims:longs scatter_dims_to_operand_dims:longs index_vector_dim:long
    unique_indices:bool update_computation_subgraph_index:subgraph
8 StablehloCompareOptions comparison_direction:uint compare_type:uint
9 StablehloDynamicSliceOptions slice_sizes:longs
10 StablehloPadOptions edge_padding_low:longs edge_padding_high:longs interior_padding:longs
11 StablehloIotaOptions iota_dimension:long
12 StablehloDotGeneralOptions lhs_batching_dimensions:longs rhs_batching_dimensions:longs
    lhs_contracting_dimensions:longs rhs_contracting_dimensions:longs precision_config:uints
13 StablehloReduceWindowOptions window_dimensions:longs window_strides:longs base_dilations:longs
    window_dilations:longs padding:longs body_subgraph_index:subgraph
14 StablehloSortOptions dimension:long is_stable:bool comparator_subgraph_index:subgraph
15 StablehloWhileOptions cond_subgraph_index:subgraph body_subgraph_index:subgraph
16 StablehloGatherOptions offset_dims:longs collapsed_slice_dims:longs start_index_map:longs
    index_vector_dim:long slice_sizes:longs indices_are_sorted:bool
17 StablehloTransposeOptions permutation:longs
18 DilateOptions
19 StablehloRngBitGeneratorOptions algorithm:byte
20 ReduceWindowOptions reduce_function:int
21 StableHLOCompositeOptions name:string decomposition_subgraph_index:subgraph
    composite_attributes:bytes composite_attributes_format:byte version:int
22 StablehloShiftLeftOptions
23 StablehloCaseOptions branch_subgraph_indices:subgraphs
""")
"""The tables that `Operator.builtin_options_2` can hold, by union type."""
