"""The protobuf message `tf.train.Example`, so that records need neither TensorFlow nor TFDS.

Fields and their numbers are those of tensorflow/core/example/{example,feature}.proto:

    message Example   { Features features = 1; }
    message Features  { map<string, Feature> feature = 1; }
    message Feature   { oneof kind { BytesList bytes_list = 1;  FloatList float_list = 2;
                                     Int64List int64_list = 3; } }
    message BytesList { repeated bytes value = 1; }      // FloatList and Int64List alike
"""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE = "mova_jax.shards"
_Field = descriptor_pb2.FieldDescriptorProto


def _field(name: str, number: int, kind: str | int, repeated: bool = False, **more) -> _Field:
    """A field of a scalar type, or of the message type that has this name."""
    label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
    of = {"type": kind} if isinstance(kind, int) else {"type_name": f".{_PACKAGE}.{kind}"}
    return _Field(name=name, number=number, label=label, **of, **more)


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="mova_jax/data/shards/example.proto", package=_PACKAGE, syntax="proto3"
    )
    kinds = {"BytesList": _Field.TYPE_BYTES, "FloatList": _Field.TYPE_FLOAT}
    kinds["Int64List"] = _Field.TYPE_INT64
    for name, kind in kinds.items():
        file.message_type.add(name=name, field=[_field("value", 1, kind, repeated=True)])
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(kinds, 1):
        field = f"{name.removesuffix('List').lower()}_list"
        feature.field.append(_field(field, number, name, oneof_index=0))
    features = file.message_type.add(name="Features")
    # A map is a repeated message of keys and values, see protobuf's language guide.
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.extend([_field("key", 1, _Field.TYPE_STRING), _field("value", 2, "Feature")])
    features.field.append(_field("feature", 1, "Features.FeatureEntry", repeated=True))
    file.message_type.add(name="Example", field=[_field("features", 1, "Features")])
    return file


# A pool of its own: in the common one, TensorFlow's messages may be there too.
_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(_file())
Example = message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.Example"))
