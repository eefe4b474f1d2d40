"""The records that test/cli/run-tensorboard.test.ts compares with, written by TensorBoard's own code (tensorboard 2.21)."""
import base64, io, json
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter


def record(event):
    out = io.BytesIO()
    writer = RecordWriter(out)
    writer.write(event.SerializeToString())
    return base64.b64encode(out.getvalue()).decode()


def value(tag, x):
    return summary_pb2.Summary.Value(tag=tag, simple_value=x)


session = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
print(json.dumps([
    record(event_pb2.Event(wall_time=1.5, step=0, file_version="brain.Event:2")),
    record(event_pb2.Event(wall_time=1.5, step=1, session_log=session)),
    record(event_pb2.Event(wall_time=2.25, step=1, summary=summary_pb2.Summary(
        value=[value("loss/train", 0.5), value("lr", 0.001)]))),
    record(event_pb2.Event(wall_time=3.0, step=300, summary=summary_pb2.Summary(
        value=[value("loss/train_epoch", 0.25), value("loss/validation", 2.0), value("f1/validation", 0.75)]))),
]))
