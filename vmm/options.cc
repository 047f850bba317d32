#include "vmm/options.h"

#include <algorithm>
#include <cmath>
#include <thread>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "guest/guest_limits.h"
#include "vmm/files.h"
#include "vmm/text.h"
#include "workloads/guest_abi.h"

ABSL_FLAG(std::optional<int>, guests, std::nullopt, "number of guests (default 4, and 1 with --clones or --kernel)");
ABSL_FLAG(quire::ByteCount, memory, quire::ByteCount::MiB(256), "memory of each guest");
ABSL_FLAG(std::optional<quire::ByteCount>, pool, std::nullopt,
          "host memory for all guests together, with everything that is kept for them (default: half of their memory)");
ABSL_FLAG(std::optional<quire::ByteCount>, guest_pool_limit, std::nullopt,
          "memory of the pool that one guest may hold; beyond it memory of that guest itself is taken out");
ABSL_FLAG(std::optional<quire::ByteCount>, guest_swap_limit, std::nullopt,
          "pages of one guest that may be swapped, counted as they were before compression; the others stay in memory");
ABSL_FLAG(quire::Overcommit, overcommit, quire::Overcommit::kAllow,
          "allow or strict: strict refuses to start guests whose memory could not all be in use at the same time, none "
          "of it compressible");
ABSL_FLAG(
    int, clones, 0,
    "start one guest, freeze it when its memory is filled (a program says when: docs/guest_abi.md), and run so many "
    "clones of it, which share its memory until they write to it");
ABSL_FLAG(int, vcpus, 1, "virtual CPUs of each guest");
ABSL_FLAG(quire::Accel, accel, quire::Accel::kAuto,
          "auto, kvm or soft: what executes the guests; auto is KVM where it works, otherwise software vCPUs");
ABSL_FLAG(quire::Engine, engine, quire::Engine::kQuire,
          "quire or kernel: kernel leaves the guests' memory to the host, as plain memory, for comparison");
ABSL_FLAG(
    quire::Huge, huge, quire::Huge::kAlways,
    "always, advise or never: whether the guests' memory may come and go by whole 2 MiB blocks, mapped by one entry "
    "each; advise: only where a guest asks for them, as the workloads do by their key advise");
ABSL_FLAG(quire::Merge, merge, quire::Merge::kOn,
          "on or off: whether pages of equal content, of all guests, come to share one frame of memory until one of "
          "them is written to");
ABSL_FLAG(quire::CompactionMode, defrag, quire::CompactionMode::kBackground,
          "fault, background or off: who moves pages together when free memory is scattered and a whole 2 MiB block is "
          "wanted: the fault that wants it, a thread, or nobody");
ABSL_FLAG(int, huge_stream, 2,
          "so many faults in a row, each where the last one ended, are a stream, and get whole blocks");
ABSL_FLAG(int, huge_faults, 12, "so many faults in one block bring it in whole ...");
ABSL_FLAG(int, huge_window, 128, "... if they are among so many of the guest's latest");
ABSL_FLAG(std::optional<int>, reclaim_threads, std::nullopt,
          "threads that take memory out and compress it in the background (default: half as many as CPUs, at most 4)");
ABSL_FLAG(std::optional<std::string>, swap, std::nullopt,
          "where compressed pages go that are cold, when they would take more than half of the pool: file:PATH[:SIZE] "
          "(a directory, a file or a disk) or nbd:URI; several with commas between them, filled in this order");
ABSL_FLAG(double, swap_retry, 60,
          "how many seconds guests wait for an NBD server that was lost, before they are stopped");
ABSL_FLAG(std::optional<std::string>, workload, std::nullopt,
          "what the guests do, as NAME or NAME:key=value,... from the list below (default zipf)");
ABSL_FLAG(std::optional<std::string>, payload, std::nullopt,
          "a guest program of your own instead of a workload; needs KVM (docs/guest_abi.md says how to write one)");
ABSL_FLAG(std::optional<std::string>, content, std::nullopt,
          "fill the guests' pages from the bytes of this file, a third of them with zeros");
ABSL_FLAG(double, compressibility, 3, "LZ4 ratio of the pages' content, where it is generated");
ABSL_FLAG(uint64_t, seed, 1, "what the pseudo-random choices start from: the same seed repeats a run");
ABSL_FLAG(std::optional<double>, seconds, std::nullopt,
          "how long to run, filling the guests' memory included (default 10; with --kernel: until the guests end)");
ABSL_FLAG(std::optional<std::string>, json, std::nullopt,
          "write the report to this file, or to standard output for -, with all else on standard error");

ABSL_FLAG(std::optional<std::string>, control, std::nullopt,
          "where the run listens for `quire explain`: the path of a socket, or none (default: PID.sock in "
          "$XDG_RUNTIME_DIR/quire, /run/quire or /tmp/quire-UID, where it is found by itself)");

namespace quire {
namespace {

constexpr int kMaxClones = 1024;  // of which each takes threads, a VM, and a number that fits its pages' versions
constexpr int kMaxGuests = 1024;  // past some hundreds each invalidation costs more than the page it is for
constexpr ByteCount kLeastMemory = ByteCount::KiB(64);  // the program of the workloads takes a quarter of it
constexpr int kMaxReclaimThreads = 64;
constexpr int kMaxSeconds = 365 * 86400;
constexpr double kMaxCompressibility = 100;  // a page that LZ4 packs better than this is one repeated value

template <typename... Args>
absl::Status Bad(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat(args...));
}

// A flag as the user would write it.
std::string Spelled(absl::string_view flag, ByteCount size) { return absl::StrCat("--", flag, "=", SizeToFlag(size)); }

absl::Status CheckCount(absl::string_view flag, int value, int max, absl::string_view example) {
  if (value >= 1 && value <= max) return absl::OkStatus();
  return Bad("--", flag, "=", value, " is out of range: write a number from 1 to ", max, ", such as ", example);
}

absl::Status CheckHugePolicy(const HugePolicy& policy) {
  if (absl::Status s = CheckCount("huge_stream", policy.stream, UINT8_MAX, "2"); !s.ok()) return s;
  if (absl::Status s = CheckCount("huge_faults", policy.faults, UINT8_MAX, "12"); !s.ok()) return s;
  return CheckCount("huge_window", policy.window, UINT16_MAX, "128");
}

absl::Status CheckWholePages(absl::string_view flag, ByteCount size, ByteCount example) {
  if (size == ByteCount())
    return Bad("--", flag, "=0 leaves nothing to run in: write a size such as ", SizeToFlag(example));
  if (size.page_aligned()) return absl::OkStatus();
  return Bad(Spelled(flag, size), " is not a multiple of the page size, 4096 bytes: the nearest size above is ",
             SizeToFlag(PageCount::Ceil(size).bytes()));
}

absl::Status CheckMemory(const RunOptions& options, const RunLimits& limits) {
  if (absl::Status whole = CheckWholePages("memory", options.memory, ByteCount::MiB(256)); !whole.ok()) return whole;
  const std::string spelled = Spelled("memory", options.memory);
  if (options.memory < kLeastMemory) {
    return Bad(spelled, " is less than a guest can run in: write ", SizeToFlag(kLeastMemory), " or more");
  }
  if (!options.pc && options.memory > limits.guest_address_space) {
    return Bad(spelled, " is larger than a guest's address space: write ", SizeToFlag(limits.guest_address_space),
               " or less");
  }
  if (options.memory > limits.host_memory) {
    return Bad(spelled, " for each guest is more than the ", FormatSize(limits.host_memory),
               " that this host has: write less, or run more guests of less memory each");
  }
  return absl::OkStatus();
}

absl::Status CheckPool(const RunOptions& options, const RunLimits& limits) {
  if (absl::Status whole = CheckWholePages("pool", options.pool, ByteCount::MiB(512)); !whole.ok()) return whole;
  const std::string spelled = Spelled("pool", options.pool);
  if (options.pool > limits.host_memory) {
    return Bad(spelled, " is more than the ", FormatSize(limits.host_memory),
               " that this host has: write less, or ask for fewer or smaller guests");
  }
  if (options.pool < limits.minimum_pool) {
    return Bad(spelled, " is less than ", Plural(static_cast<uint64_t>(options.machines()), "guest"),
               " can run in: write ", SizeToFlag(limits.minimum_pool), " or more");
  }
  return absl::OkStatus();
}

absl::Status CheckGuestLimits(const RunOptions& options) {
  const bool limited = options.guest_pool_limit || options.guest_swap_limit;
  if (options.engine == Engine::kKernel && (limited || options.overcommit == Overcommit::kStrict)) {
    return Bad("--", limited ? options.guest_pool_limit ? "guest_pool_limit" : "guest_swap_limit" : "overcommit",
               " is about Quire's pool, and --engine=kernel leaves memory to the host: give only one of them");
  }
  if (options.guest_pool_limit) {
    const ByteCount limit = *options.guest_pool_limit;
    if (limit < GuestLimits::kLeast.bytes()) {
      return Bad(Spelled("guest_pool_limit", limit), " is less than a guest can run in: write ",
                 SizeToFlag(GuestLimits::kLeast.bytes()), " or more");
    }
    if (absl::Status s = CheckWholePages("guest_pool_limit", limit, ByteCount::MiB(128)); !s.ok()) return s;
  }
  if (!options.guest_swap_limit) return absl::OkStatus();
  if (*options.guest_swap_limit == ByteCount()) {
    return Bad("--guest_swap_limit=0 would let nothing be swapped: write a size such as 128M, or leave it out");
  }
  return CheckWholePages("guest_swap_limit", *options.guest_swap_limit, ByteCount::MiB(128));
}

// What guests could hold of something, if each may have so much.
ByteCount OfGuests(const RunOptions& options, ByteCount there_is, std::optional<ByteCount> each) {
  if (!each) return there_is;
  const ByteCount most = std::min(*each, options.memory);  // more is of no use, and cannot overflow
  return std::min(there_is, ByteCount::Bytes(most.in_bytes() * static_cast<uint64_t>(options.guests)));
}

std::string LimitedTo(absl::string_view flag, ByteCount there_is, ByteCount usable) {
  return usable == there_is ? "" : absl::StrCat(" (", FormatSize(usable), " by --", flag, ")");
}

// Times are checked as they were written: a duration makes infinity of what is no number.
absl::Status CheckSeconds(double seconds) {
  if (seconds > 0 && seconds <= kMaxSeconds) return absl::OkStatus();
  return Bad("--seconds=", seconds, " is out of range: write a number above 0 and up to ", FormatCount(kMaxSeconds),
             " (a year), such as 10");
}

absl::Status CheckSwapRetry(double seconds) {
  if (seconds >= 0 && seconds <= kMaxSeconds) return absl::OkStatus();
  return Bad("--swap_retry=", seconds, " is out of range: write a number of seconds from 0 to ",
             FormatCount(kMaxSeconds), " (a year), such as 60");
}

absl::Status CheckSwap(const RunOptions& options) {
  if (options.swap.empty() || options.engine == Engine::kQuire) return absl::OkStatus();
  return Bad(
      "--swap is where Quire puts cold memory, and --engine=kernel leaves it to the host: give only one of them");
}

absl::Status CheckCompressibility(double ratio) {
  if (ratio >= 1 && ratio <= kMaxCompressibility) return absl::OkStatus();
  return Bad("--compressibility=", ratio, " is out of range: write a ratio from 1 (incompressible) to ",
             kMaxCompressibility, ", such as 3");
}

absl::Status CheckClones(const RunOptions& options) {
  if (options.clones == 0) return absl::OkStatus();
  if (absl::Status s = CheckCount("clones", options.clones, kMaxClones, "100"); !s.ok()) return s;
  if (options.guests != 1) {
    return Bad("--clones are of one guest, and --guests=", options.guests, " asks for more: leave --guests out");
  }
  if (options.engine == Engine::kQuire) return absl::OkStatus();
  return Bad(
      "--clones share memory that Quire manages, and --engine=kernel leaves it to the host: give only one of them");
}

absl::Status CheckPayload(const RunOptions& options) {
  if (!options.payload) return absl::OkStatus();
  if (options.accel == Accel::kSoft) {
    return Bad(
        "--payload needs KVM and --accel=soft has none: use --accel=kvm, or a --workload of those that "
        "`quire run --help` lists");
  }
  if (options.content) {
    return Bad(
        "--content fills the pages of the built-in workloads and a --payload fills its own: give only one of them");
  }
  return absl::OkStatus();
}

// Of two ways to say what guests run.
absl::Status CheckKernel(const RunOptions& options) {
  if (!options.pc) return absl::OkStatus();
  if (options.accel == Accel::kSoft) {
    return Bad("--kernel needs KVM and --accel=soft has none: use --accel=kvm, or leave it out");
  }
  if (options.clones > 0) return Bad("--clones are of guests that run a workload or a --payload: leave --kernel out");
  if (options.content) {
    return Bad("--content fills the pages of the built-in workloads, and a kernel has its own: leave it out");
  }
  return Validate(*options.pc, options.memory, options.guests);
}

absl::StatusOr<RunOptions> OptionsFromFlags(std::optional<PcOptions> pc);

template <typename Enum>
bool ParseName(absl::string_view text, std::initializer_list<Enum> values, Enum* value) {
  for (Enum candidate : values) {
    if (text != Name(candidate)) continue;
    *value = candidate;
    return true;
  }
  return false;
}

}  // namespace

absl::string_view Name(Accel accel) {
  switch (accel) {
    case Accel::kAuto:
      return "auto";
    case Accel::kKvm:
      return "kvm";
    case Accel::kSoft:
      return "soft";
  }
  return "";
}

absl::string_view Name(Engine engine) { return engine == Engine::kQuire ? "quire" : "kernel"; }

absl::string_view Name(CompactionMode mode) {
  switch (mode) {
    case CompactionMode::kFault:
      return "fault";
    case CompactionMode::kBackground:
      return "background";
    case CompactionMode::kOff:
      return "off";
  }
  return "";
}

absl::string_view Name(Merge merge) { return merge == Merge::kOn ? "on" : "off"; }
absl::string_view Name(Overcommit overcommit) { return overcommit == Overcommit::kAllow ? "allow" : "strict"; }

absl::string_view Name(Huge huge) {
  switch (huge) {
    case Huge::kAlways:
      return "always";
    case Huge::kAdvise:
      return "advise";
    case Huge::kNever:
      return "never";
  }
  return "";
}

const std::vector<FlagGroup>& RunFlags() {
  static const auto* groups = new std::vector<FlagGroup>{
      {"Guests",
       {{"guests", "N", "write a whole number such as 4"},
        {"clones", "N", "write a whole number such as 100"},
        {"memory", "SIZE", "write a size such as 256M, 1.5G or 268435456"},
        {"vcpus", "N", "write a whole number such as 1"},
        {"accel", "WHAT", "write auto, kvm or soft"}}},
      {"Their memory",
       {{"pool", "SIZE", "write a size such as 512M, 1.5G or 536870912"},
        {"guest_pool_limit", "SIZE", "write a size such as 128M, 1.5G or 134217728"},
        {"guest_swap_limit", "SIZE", "write a size such as 128M, 1.5G or 134217728"},
        {"overcommit", "WHETHER", "write allow or strict"},
        {"engine", "WHO", "write quire or kernel"},
        {"huge", "WHEN", "write always, advise or never"},
        {"merge", "WHETHER", "write on or off"},
        {"huge_stream", "N", "write a whole number such as 2"},
        {"huge_faults", "N", "write a whole number such as 12"},
        {"huge_window", "N", "write a whole number such as 128"},
        {"defrag", "WHO", "write fault, background or off"},
        {"reclaim_threads", "N", "write a whole number such as 2"},
        {"swap", "WHERE", "write file:PATH, file:PATH:SIZE or nbd:URI"},
        {"swap_retry", "SECONDS", "write a number of seconds such as 60"}}},
      {"What they do",
       {{"workload", "SPEC", "write a workload such as zipf or zipf:theta=0.8"},
        {"payload", "FILE", "write the path of a guest program"},
        {"seconds", "N", "write a number of seconds such as 10"},
        {"seed", "N", "write a whole number such as 1"}}},
      PcFlags(),
      {"What their pages hold",
       {{"content", "FILE", "write the path of a file"}, {"compressibility", "RATIO", "write a ratio such as 3"}}},
      {"What comes out",
       {{"json", "FILE", "write the path of a file, or - for standard output"},
        {"control", "PATH", "write the path of a socket to be made, or none"}}},
  };
  return *groups;
}

int DefaultReclaimThreads() {
  const int cpus = static_cast<int>(std::thread::hardware_concurrency());
  return std::clamp(cpus / 2, 1, 4);
}

std::vector<GuestGroup> RunOptions::Groups() const {
  if (!groups.empty()) return groups;
  return {{.guests = guests,
           .memory = memory,
           .vcpus = vcpus,
           .workload = workload,
           .command_line = pc.has_value() ? pc->command_line : ""}};
}

int RunOptions::machines() const {
  int machines = clones;
  for (const GuestGroup& group : Groups()) machines += group.guests;
  return machines;
}

ByteCount RunOptions::all_memory() const {
  uint64_t bytes = memory.in_bytes() * static_cast<uint64_t>(clones);
  for (const GuestGroup& group : Groups()) bytes += group.memory.in_bytes() * static_cast<uint64_t>(group.guests);
  return ByteCount::Bytes(bytes);
}

ByteCount RunOptions::default_pool() const {
  const uint64_t bytes = clones == 0 ? all_memory().in_bytes() / 2
                                     : memory.in_bytes() + memory.in_bytes() / 10 * static_cast<uint64_t>(clones);
  return PageCount::Ceil(ByteCount::Bytes(bytes)).bytes();
}

absl::StatusOr<RunOptions> RunOptionsFromFlags() {
  absl::StatusOr<std::optional<PcOptions>> pc = PcOptionsFromFlags();
  return pc.ok() ? OptionsFromFlags(*std::move(pc)) : pc.status();
}

absl::StatusOr<RunOptions> RunOptionsFromFlags(const PcOptions& guest) {
  PcOptions pc = guest;
  if (absl::Status status = OverrideByFlags(pc); !status.ok()) return status;
  return OptionsFromFlags(std::move(pc));
}

namespace {

absl::StatusOr<RunOptions> OptionsFromFlags(std::optional<PcOptions> pc) {
  RunOptions options;
  options.clones = absl::GetFlag(FLAGS_clones);
  options.pc = std::move(pc);
  options.guests = absl::GetFlag(FLAGS_guests).value_or(options.clones > 0 || options.pc ? 1 : options.guests);
  options.memory = absl::GetFlag(FLAGS_memory);
  options.vcpus = absl::GetFlag(FLAGS_vcpus);
  options.guest_pool_limit = absl::GetFlag(FLAGS_guest_pool_limit);
  options.guest_swap_limit = absl::GetFlag(FLAGS_guest_swap_limit);
  options.overcommit = absl::GetFlag(FLAGS_overcommit);
  options.accel = absl::GetFlag(FLAGS_accel);
  options.engine = absl::GetFlag(FLAGS_engine);
  options.huge = absl::GetFlag(FLAGS_huge);
  options.merge = absl::GetFlag(FLAGS_merge);
  options.defrag = absl::GetFlag(FLAGS_defrag);
  options.huge_policy = {.stream = absl::GetFlag(FLAGS_huge_stream),
                         .faults = absl::GetFlag(FLAGS_huge_faults),
                         .window = absl::GetFlag(FLAGS_huge_window)};
  options.reclaim_threads = absl::GetFlag(FLAGS_reclaim_threads).value_or(DefaultReclaimThreads());
  if (const std::optional<std::string> swap = absl::GetFlag(FLAGS_swap)) {
    absl::StatusOr<std::vector<SwapSpec>> specs = ParseSwap(*swap);
    if (!specs.ok()) return specs.status();
    options.swap = *std::move(specs);
  }
  const double swap_retry = absl::GetFlag(FLAGS_swap_retry);
  if (absl::Status s = CheckSwapRetry(swap_retry); !s.ok()) return s;
  options.swap_retry = absl::Seconds(swap_retry);
  options.payload = absl::GetFlag(FLAGS_payload);
  options.content = absl::GetFlag(FLAGS_content);
  options.compressibility = absl::GetFlag(FLAGS_compressibility);
  options.seed = absl::GetFlag(FLAGS_seed);
  if (const std::optional<double> seconds = absl::GetFlag(FLAGS_seconds)) {
    if (absl::Status s = CheckSeconds(*seconds); !s.ok()) return s;
    options.duration = absl::Seconds(*seconds);
  } else if (options.pc) {
    options.duration = RunOptions::kNoTimeLimit;
  }
  options.json = absl::GetFlag(FLAGS_json);
  if (options.json == "/dev/stdout") options.json = "-";
  options.control = absl::GetFlag(FLAGS_control).value_or("");
  if (options.control == "none") options.control = std::nullopt;
  const std::optional<std::string> workload = absl::GetFlag(FLAGS_workload);
  if (workload && options.payload) {
    return absl::InvalidArgumentError("--workload and --payload both say what the guests run: give only one of them");
  }
  if (options.pc && (workload || options.payload)) {
    return Bad("--kernel and --", workload ? "workload" : "payload",
               " both say what the guests run: give only one of them");
  }
  options.workload = workload.value_or(options.workload);
  options.pool = absl::GetFlag(FLAGS_pool).value_or(options.default_pool());
  return options;
}

// As if all guests were of that group.
RunOptions OfGroup(const RunOptions& options, const GuestGroup& group) {
  RunOptions alike = options;
  alike.groups.clear();
  alike.guests = group.guests;
  alike.memory = group.memory;
  alike.vcpus = group.vcpus;
  alike.workload = group.workload;
  return alike;
}

absl::Status ValidateGroups(const RunOptions& options, const RunLimits& limits) {
  if (absl::Status s = CheckCount("guests", options.machines(), kMaxGuests, "4"); !s.ok()) return s;
  for (const GuestGroup& group : options.groups) {
    if (absl::Status s = Validate(OfGroup(options, group), limits); !s.ok()) {
      return Bad("guests \"", group.name, "\": ", s.message());
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Validate(const RunOptions& options, const RunLimits& limits) {
  if (!options.groups.empty()) return ValidateGroups(options, limits);
  if (absl::Status s = CheckCount("guests", options.guests, kMaxGuests, "4"); !s.ok()) return s;
  if (absl::Status s = CheckClones(options); !s.ok()) return s;
  if (absl::Status s = CheckCount("vcpus", options.vcpus, QUIRE_MAX_VCPUS, "1"); !s.ok()) return s;
  if (absl::Status s = CheckHugePolicy(options.huge_policy); !s.ok()) return s;
  if (absl::Status s = CheckCount("reclaim_threads", options.reclaim_threads, kMaxReclaimThreads, "2"); !s.ok()) {
    return s;
  }
  if (absl::Status s = CheckKernel(options); !s.ok()) return s;  // whose machine has limits of its own to memory
  if (absl::Status s = CheckMemory(options, limits); !s.ok()) return s;
  if (absl::Status s = CheckPool(options, limits); !s.ok()) return s;
  if (absl::Status s = CheckGuestLimits(options); !s.ok()) return s;
  if (absl::Status s = CheckSwap(options); !s.ok()) return s;
  if (absl::Status s = CheckCompressibility(options.compressibility); !s.ok()) return s;
  if (absl::Status s = CheckPayload(options); !s.ok()) return s;
  return options.has_workload() ? limits.check_workload(options.workload) : absl::OkStatus();
}

absl::Status CheckOvercommit(const RunOptions& options, const MemoryOffer& offer) {
  if (options.overcommit == Overcommit::kAllow) return absl::OkStatus();
  const ByteCount all = options.all_memory();
  const ByteCount pool = OfGuests(options, offer.pool, options.guest_pool_limit);
  const ByteCount swap = OfGuests(options, offer.swap, options.guest_swap_limit);
  if (all <= pool + swap) return absl::OkStatus();
  const bool limited = pool < offer.pool || swap < offer.swap;
  return Bad("--overcommit=strict cannot be honoured: ", Plural(static_cast<uint64_t>(options.guests), "guest"), " of ",
             FormatSize(options.memory), " may want ", FormatSize(all), " at once, and there are ",
             FormatSize(offer.pool), " of the pool for them", LimitedTo("guest_pool_limit", offer.pool, pool), " and ",
             FormatSize(offer.swap), " of swap", LimitedTo("guest_swap_limit", offer.swap, swap), ", ",
             FormatSize(all - pool - swap), " too little: raise --pool, --swap", limited ? ", the guests' limits" : "",
             " or both, or lower --guests or --memory");
}

absl::Status CheckFiles(const RunOptions& options) {
  if (options.pc) {
    if (absl::Status s = CheckFiles(*options.pc); !s.ok()) return s;
  }
  if (options.payload) {
    if (absl::Status s = CheckReadable("payload", *options.payload); !s.ok()) return s;
  }
  if (options.content) {
    if (absl::Status s = CheckReadable("content", *options.content); !s.ok()) return s;
  }
  return options.json ? CheckWritable("json", *options.json) : absl::OkStatus();
}

std::vector<std::string> Notes(const RunOptions& options) {
  std::vector<std::string> notes;
  if (options.engine == Engine::kKernel) {
    notes.push_back("With --engine=kernel the host manages the guests' memory and --pool is not enforced.");
  } else if (options.overcommit == Overcommit::kAllow && options.all_memory() > options.pool) {
    notes.push_back(
        absl::StrCat("The guests' ", FormatSize(options.all_memory()),
                     " need not fit into the pool: what they write is kept, but if too little of it compresses for all "
                     "of it to be kept, a guest is stopped; --overcommit=strict starts none that could be."));
  }
  return notes;
}

bool AbslParseFlag(absl::string_view text, Accel* accel, std::string*) {
  return ParseName(text, {Accel::kAuto, Accel::kKvm, Accel::kSoft}, accel);
}
std::string AbslUnparseFlag(Accel accel) { return std::string(Name(accel)); }

bool AbslParseFlag(absl::string_view text, Engine* engine, std::string*) {
  return ParseName(text, {Engine::kQuire, Engine::kKernel}, engine);
}
std::string AbslUnparseFlag(Engine engine) { return std::string(Name(engine)); }

bool AbslParseFlag(absl::string_view text, Huge* huge, std::string*) {
  return ParseName(text, {Huge::kAlways, Huge::kAdvise, Huge::kNever}, huge);
}
std::string AbslUnparseFlag(Huge huge) { return std::string(Name(huge)); }

bool AbslParseFlag(absl::string_view text, Overcommit* overcommit, std::string*) {
  return ParseName(text, {Overcommit::kAllow, Overcommit::kStrict}, overcommit);
}
std::string AbslUnparseFlag(Overcommit overcommit) { return std::string(Name(overcommit)); }
bool AbslParseFlag(absl::string_view text, Merge* merge, std::string*) {
  return ParseName(text, {Merge::kOn, Merge::kOff}, merge);
}
std::string AbslUnparseFlag(Merge merge) { return std::string(Name(merge)); }

bool AbslParseFlag(absl::string_view text, CompactionMode* mode, std::string*) {
  return ParseName(text, {CompactionMode::kFault, CompactionMode::kBackground, CompactionMode::kOff}, mode);
}
std::string AbslUnparseFlag(CompactionMode mode) { return std::string(Name(mode)); }

}  // namespace quire
