// What an experiment's file asks for: guests, what becomes of them over time, and a matrix of settings to sweep.
// docs/experiments.md describes the file.
#ifndef QUIRE_VMM_EXPERIMENT_EXPERIMENT_H_
#define QUIRE_VMM_EXPERIMENT_EXPERIMENT_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"
#include "vmm/options.h"

namespace quire {

// Whose memory management is at work; the key "engine".
enum class Contender : uint8_t {
  kQuire,
  kKernel,      // the host kernel's as it comes: huge pages, zram, ksmd where pages are merged
  kKernelBest,  // the same with the settings that suit it best
  kQemu,        // the host kernel's as it comes, of guests that QEMU runs in libvirt's domains
};
absl::string_view Name(Contender contender);  // "quire", "kernel", "kernel-best", "qemu"

// Something that is swept: a key of the file, and the values that it takes.
struct Axis {
  std::string name;  // "overcommit" of [run], "guests.web.count" of [guests.web]
  std::vector<nlohmann::json> values = {};
};

// A value as it stands in the names of runs.
std::string ValueText(const nlohmann::json& value);

// A value for each axis, by the axes' order.
using Point = std::vector<std::pair<std::string, nlohmann::json>>;

// One setting of everything: what each repetition of a point runs.
struct Variant {
  Point point;
  // With a schedule; the seed is that of the first repetition, the next one has the next.
  RunOptions options;
  Contender contender = Contender::kQuire;
  // Whether the host kernel has the guests' memory.
  bool on_kernel() const { return contender != Contender::kQuire; }
  bool on_qemu() const { return contender == Contender::kQemu; }
  std::string uri = "qemu:///system";  // of the libvirt whose domains QEMU's guests are
  nlohmann::json settings;             // all that was asked for, by the file's keys
};

struct Experiment {
  std::string file;  // its path
  std::string text;  // all of it
  std::string name;
  std::string asks = {};   // a question
  std::string about = {};  // paragraphs, perhaps none
  bool quick = false;
  int repetitions = 1;
  std::vector<Axis> axes = {};
  std::vector<Variant> variants = {};  // in the order of the axes, the last one changing fastest
  nlohmann::json charts = {};          // what the page shows: an array, as experiment.json has it

  uint64_t runs() const { return variants.size() * static_cast<uint64_t>(repetitions); }
};

// The most runs that an experiment may have.
inline constexpr uint64_t kMostRuns = 10000;

// Reads the experiment in `path`; `quick` has its section [quick] count. `limits` without a minimum pool, which is that
// of each variant. Errors: InvalidArgument, "FILE:LINE: " and a sentence without a full stop.
absl::StatusOr<Experiment> ReadExperiment(const std::string& path, bool quick, const RunLimits& limits);

// The same of a text, as if it were the file's.
absl::StatusOr<Experiment> ParseExperiment(const std::string& path, absl::string_view text, bool quick,
                                           const RunLimits& limits);

}  // namespace quire

#endif  // QUIRE_VMM_EXPERIMENT_EXPERIMENT_H_
