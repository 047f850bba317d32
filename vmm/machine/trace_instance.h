// What the host kernel did, by its own trace: for tests of what it does on behalf of a call.
//
// An instance of ftrace has events and a buffer of its own, so that nobody else's tracing is disturbed.
// Source: Linux, Documentation/trace/ftrace.rst, "Instances".
#ifndef QUIRE_VMM_MACHINE_TRACE_INSTANCE_H_
#define QUIRE_VMM_MACHINE_TRACE_INSTANCE_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"

namespace quire {

// An instance of the kernel's tracer, removed with the object. Not thread safe.
class TraceInstance {
 public:
  // Makes one, and first removes what a program that crashed has left under this name. No event is enabled yet.
  // Unavailable: there is no tracefs at its usual place, this process may not use it, or somebody has one of this name.
  static absl::StatusOr<std::unique_ptr<TraceInstance>> Create(absl::string_view name);
  ~TraceInstance();
  TraceInstance(const TraceInstance&) = delete;
  TraceInstance& operator=(const TraceInstance&) = delete;

  // Has `event` ("kvm/kvm_entry") recorded from now on. Unavailable: this kernel has no such event.
  absl::Status Enable(absl::string_view event);

  // Runs `action` and returns the events that this thread caused meanwhile, in their order, each as its name, a colon,
  // a space, and what the kernel prints of it. ResourceExhausted: there were too many for the buffer.
  absl::StatusOr<std::vector<std::string>> Record(absl::FunctionRef<void()> action);

 private:
  TraceInstance(std::string path, UniqueFd marker) : path_(std::move(path)), marker_(std::move(marker)) {}

  absl::Status Write(absl::string_view file, absl::string_view text);
  absl::Status Mark(absl::string_view text);

  const std::string path_;
  UniqueFd marker_;  // open for as long as the instance is in use: the kernel refuses to remove it then
};

}  // namespace quire

#endif  // QUIRE_VMM_MACHINE_TRACE_INSTANCE_H_
