// How a run, in a process of its own, tells the experiment of itself: lines of JSON through a pipe.
//
//   {"sample": {"seconds": 0.2, "phase": "fill", "operations": 12, ...}}    several times a second
//   {"report": {...}}       at the end: as `quire run --json`; or
//   {"error": "sentence"}
#ifndef QUIRE_VMM_EXPERIMENT_RUN_PROTOCOL_H_
#define QUIRE_VMM_EXPERIMENT_RUN_PROTOCOL_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"
#include "vmm/libvirt/qemu/qemu_guests.h"
#include "vmm/options.h"
#include "vmm/progress.h"

namespace quire {

// A run at a moment. What an engine cannot tell by itself is added by who reads it.
struct Sample {
  double seconds = 0;  // since the start of the run
  std::string phase = {};
  uint64_t operations = 0;  // since then, of all guests
  uint64_t faults = 0;
  uint64_t guests = 0;   // that run, having filled their memory
  uint64_t filling = 0;  // that have not yet
  std::optional<ByteCount> resident = {}, shared = {}, compressed = {}, other = {}, free = {};
  std::optional<ByteCount> huge = {};  // of guests' memory, mapped by 2 MiB
  // Sums of what guests say (GuestSnapshot::Told); and of QEMU's processes, the memory that they have on the host.
  GuestSnapshot::Told told = {};
  std::optional<ByteCount> rss = {};
  bool over_budget = false;  // of the host kernel's side: guests take more memory than there is

  // What is in use.
  ByteCount used() const {
    return resident.value_or(ByteCount()) + shared.value_or(ByteCount()) + compressed.value_or(ByteCount()) +
           other.value_or(ByteCount());
  }
};

Sample SampleOf(const Snapshot& snapshot);

std::string FormatSample(const Sample& sample);

struct RunMessage {
  std::optional<Sample> sample = {};
  nlohmann::json report = {};  // null: there is none
  std::optional<std::string> error = {};
};
// Errors: Internal, it is no message.
absl::StatusOr<RunMessage> ParseMessage(absl::string_view line);

// The life of a run's process: runs `options`, which are valid, and writes messages to `fd`.
void RunAndTell(const RunOptions& options, int fd);
// The same of a run whose guests QEMU runs.
void RunQemuAndTell(const RunOptions& options, const QemuHost& host, int fd);

}  // namespace quire

#endif  // QUIRE_VMM_EXPERIMENT_RUN_PROTOCOL_H_
