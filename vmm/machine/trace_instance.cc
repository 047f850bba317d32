#include "vmm/machine/trace_instance.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>

#include "absl/memory/memory.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace quire {
namespace {

constexpr absl::string_view kInstances = "/sys/kernel/tracing/instances/";
constexpr absl::string_view kBegin = "tracing_mark_write: begin";
constexpr absl::string_view kEnd = "tracing_mark_write: end";

absl::Status Cannot(absl::string_view what, const std::string& path) {
  return absl::UnavailableError(absl::StrCat("cannot ", what, " ", path, ": ", std::strerror(errno)));
}

// "  name-123   [001] .....  45.678901: event: fields": the thread's number, perhaps with spaces, and the event. The
// name is no good: the kernel may come to know it between one line and the next, and prints "<...>" until then.
struct Line {
  absl::string_view thread;
  absl::string_view event;
};
Line Split(absl::string_view line) {
  const size_t cpu = line.find(" [");
  const size_t time = line.find(": ", cpu);
  if (time == absl::string_view::npos) return {};
  const absl::string_view name_and_number = line.substr(0, cpu);
  return {.thread = name_and_number.substr(name_and_number.rfind('-') + 1), .event = line.substr(time + 2)};
}

// The events of the thread that wrote the two marks, between them. What the kernel prints is its own number of a
// thread, which one in a namespace does not know.
absl::StatusOr<std::vector<std::string>> BetweenMarks(std::ifstream trace) {
  std::vector<std::string> events;
  std::string thread;  // whose they are; empty before the mark at the beginning
  for (std::string text; std::getline(trace, text);) {
    const Line line = Split(text);
    if (thread.empty()) {
      if (line.event == kBegin) thread = std::string(line.thread);
    } else if (line.thread == thread) {
      if (line.event == kEnd) return events;
      events.emplace_back(line.event);
    }
  }
  return absl::ResourceExhaustedError("the trace's buffer did not hold all events");
}

}  // namespace

absl::StatusOr<std::unique_ptr<TraceInstance>> TraceInstance::Create(absl::string_view name) {
  const std::string path = absl::StrCat(kInstances, name, "/");
  rmdir(path.c_str());
  if (mkdir(path.c_str(), 0700) != 0) return Cannot("make", path);
  UniqueFd marker(open(absl::StrCat(path, "trace_marker").c_str(), O_WRONLY | O_CLOEXEC));
  const bool opened = marker.valid();
  auto made = absl::WrapUnique(new TraceInstance(path, std::move(marker)));
  if (!opened) return Cannot("open trace_marker in", path);
  // Record switches it on. What does not fit is dropped, the mark at the end included.
  absl::Status status = made->Write("tracing_on", "0");
  status.Update(made->Write("options/overwrite", "0"));
  if (!status.ok()) return status;
  return made;
}

TraceInstance::~TraceInstance() {
  marker_.reset();
  rmdir(path_.c_str());
}

absl::Status TraceInstance::Enable(absl::string_view event) {
  return Write(absl::StrCat("events/", event, "/enable"), "1");
}

absl::StatusOr<std::vector<std::string>> TraceInstance::Record(absl::FunctionRef<void()> action) {
  absl::Status status = Write("trace", "");  // opened for writing, it is emptied
  status.Update(Write("tracing_on", "1"));
  status.Update(Mark("begin"));
  if (!status.ok()) return status;
  action();
  status = Mark("end");
  status.Update(Write("tracing_on", "0"));
  if (!status.ok()) return status;
  return BetweenMarks(std::ifstream(path_ + "trace"));
}

absl::Status TraceInstance::Write(absl::string_view file, absl::string_view text) {
  const std::string path = absl::StrCat(path_, file);
  std::ofstream stream(path);
  stream << text << std::flush;
  return stream.good() ? absl::OkStatus() : Cannot("write to", path);
}

// EBADF: the buffer has no room. That the mark is missing then is seen by who reads the trace.
absl::Status TraceInstance::Mark(absl::string_view text) {
  if (write(marker_.get(), text.data(), text.size()) >= 0 || errno == EBADF) return absl::OkStatus();
  return Cannot("write to trace_marker in", path_);
}

}  // namespace quire
