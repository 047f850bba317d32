// What `quire run` is asked to do: its flags, parsed and checked before anything is started.
#ifndef QUIRE_VMM_OPTIONS_H_
#define QUIRE_VMM_OPTIONS_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/units.h"
#include "guest/huge/compaction_mode.h"
#include "vmm/flags.h"
#include "vmm/pc_options.h"
#include "vmm/schedule.h"
#include "vmm/size_flag.h"
#include "vmm/swap_spec.h"

namespace quire {

// What runs the guests' instructions.
enum class Accel : uint8_t { kAuto, kKvm, kSoft };
// Who manages the guests' memory: this program, or the host kernel (the baseline).
enum class Engine : uint8_t { kQuire, kKernel };

// Whether guests' memory may come and go by whole blocks of 2 MiB; kAdvise: where a guest asks for it.
enum class Huge : uint8_t { kAlways, kAdvise, kNever };

// What becomes of guests that could want more memory than there is: they may, or the run does not start.
enum class Overcommit : uint8_t { kAllow, kStrict };

// Whether guests' equal pages share memory.
enum class Merge : uint8_t { kOn, kOff };

absl::string_view Name(Accel accel);
absl::string_view Name(Engine engine);
absl::string_view Name(Huge huge);
absl::string_view Name(CompactionMode mode);
absl::string_view Name(Overcommit overcommit);
absl::string_view Name(Merge merge);

// When a fault brings in a whole block: GranularityOptions.
struct HugePolicy {
  int stream = 2;    // faults in a row
  int faults = 12;   // in one block ...
  int window = 128;  // ... of the guest's latest
};

struct RunOptions {
  int guests = 4;
  int clones = 0;                          // of the one guest that there is then
  ByteCount memory = ByteCount::MiB(256);  // of each guest
  ByteCount pool = ByteCount::MiB(512);
  std::optional<ByteCount> guest_pool_limit = {};  // of it, for each guest
  std::optional<ByteCount> guest_swap_limit = {};  // swapped pages of each guest, compressed or not
  Overcommit overcommit = Overcommit::kAllow;
  int vcpus = 1;               // of each guest
  Accel accel = Accel::kAuto;  // never kAuto once the run has begun
  Engine engine = Engine::kQuire;
  Huge huge = Huge::kAlways;
  Merge merge = Merge::kOn;
  CompactionMode defrag = CompactionMode::kBackground;
  HugePolicy huge_policy = {};
  int reclaim_threads = 1;
  std::vector<SwapSpec> swap = {};                // where cold memory goes, in this order
  absl::Duration swap_retry = absl::Seconds(60);  // how long a lost NBD server is waited for
  std::string workload = "zipf";                  // a spec of workloads/, unless there is a payload
  std::optional<std::string> payload;             // path of the user's own guest program
  std::optional<PcOptions> pc;                    // a kernel instead of both
  std::optional<std::string> content;             // path of the file whose bytes fill the guests' pages
  double compressibility = 3;                     // LZ4 ratio of generated content
  uint64_t seed = 1;
  std::vector<GuestGroup> groups = {};  // instead of alike guests: the fields above that are of each guest mean nothing
  std::optional<Schedule> schedule = {};  // instead of a duration; none with clones
  // Longer than any flag can ask for: until the guests end.
  static constexpr absl::Duration kNoTimeLimit = absl::Hours(100 * 366 * 24);
  absl::Duration duration = absl::Seconds(10);
  std::optional<std::string> json;  // path of the report, "-" for standard output
  // Path of the control socket; empty: where `quire explain` looks for it. Without a value there is none.
  std::optional<std::string> control = {};

  // Whether the guests run one of the project's workloads.
  bool has_workload() const { return !payload.has_value() && !pc.has_value(); }
  // The template, if there are clones, included.
  int machines() const;
  ByteCount all_memory() const;
  // The guests by their kinds, clones aside; one group if they are alike.
  std::vector<GuestGroup> Groups() const;
  // Half of the guests' memory; with clones, room for all of the template's and a tenth of each clone's.
  ByteCount default_pool() const;
};

// How many threads reclaim memory if nobody says so: half as many as the host has CPUs, 1 to 4.
int DefaultReclaimThreads();

// What the options are held against; the caller asks the host and the other folders.
struct RunLimits {
  ByteCount host_memory;          // RAM, or the cgroup's limit where that is lower
  ByteCount guest_address_space;  // the most memory that a guest can have
  ByteCount minimum_pool;         // the least that this number of guests can run in
  std::function<absl::Status(absl::string_view spec)> check_workload;
};

// The flags of `quire run`, for ParseFlags and for the help.
const std::vector<FlagGroup>& RunFlags();

// The options as the flags have them. The pool defaults to half of the guests' memory, rounded up to a whole page.
// Errors: InvalidArgument where flags exclude each other, or have a value that no option can hold.
absl::StatusOr<RunOptions> RunOptionsFromFlags();
// The same for one guest that is described elsewhere than by flags, but for its memory and its vCPUs.
absl::StatusOr<RunOptions> RunOptionsFromFlags(const PcOptions& guest);

// Every message says what is wrong and what would be right, in one sentence without a full stop.
// Errors: InvalidArgument.
absl::Status Validate(const RunOptions& options, const RunLimits& limits);

// What there is for guests' memory, once everything else has what it needs.
struct MemoryOffer {
  ByteCount pool;  // that guests can hold at the same time
  ByteCount swap;  // that swap areas take of pages that do not compress
};

// With --overcommit=strict, whether all guests' memory can be in use at the same time, none of it compressible.
// Errors: InvalidArgument, with the numbers and what to change.
absl::Status CheckOvercommit(const RunOptions& options, const MemoryOffer& offer);

// Whether the files that the options name can be read and written. Errors: InvalidArgument.
absl::Status CheckFiles(const RunOptions& options);

// What the user should know about options that are valid but will not do what they seem to: one sentence each.
std::vector<std::string> Notes(const RunOptions& options);

// For Abseil's flags, which find these by their argument's namespace.
bool AbslParseFlag(absl::string_view text, Accel* accel, std::string* error);
std::string AbslUnparseFlag(Accel accel);
bool AbslParseFlag(absl::string_view text, Engine* engine, std::string* error);
std::string AbslUnparseFlag(Engine engine);
bool AbslParseFlag(absl::string_view text, Huge* huge, std::string* error);
std::string AbslUnparseFlag(Huge huge);
bool AbslParseFlag(absl::string_view text, CompactionMode* mode, std::string* error);
std::string AbslUnparseFlag(CompactionMode mode);
bool AbslParseFlag(absl::string_view text, Overcommit* overcommit, std::string* error);
std::string AbslUnparseFlag(Overcommit overcommit);
bool AbslParseFlag(absl::string_view text, Merge* merge, std::string* error);
std::string AbslUnparseFlag(Merge merge);

}  // namespace quire

#endif  // QUIRE_VMM_OPTIONS_H_
