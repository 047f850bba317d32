#include "vmm/experiment/measured_run.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/unique_fd.h"
#include "vmm/baseline/host_memory.h"
#include "vmm/interrupt.h"
#include "vmm/libvirt/qemu/run_directory.h"
#include "vmm/statistics.h"
#include "vmm/text.h"

#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67  // Linux 6.4
#endif

namespace quire {
namespace {

using Json = nlohmann::json;

constexpr int kTickMilliseconds = 20;
// The limit is lowered by so much at a time: the kernel reclaims what lies above a new one before the write returns,
// and gives up, or takes seconds, where that is much.
constexpr ByteCount kStep = ByteCount::MiB(4);
// With less the kernel cannot even run the process.
constexpr ByteCount kSmallestLimit = ByteCount::MiB(16);
// How long guests may take more memory than there is. It takes a moment to get it from them, while they take more.
constexpr absl::Duration kLongestOverBudget = absl::Seconds(1);
constexpr char kOverBudget[] =
    "the guests took more memory than there is, with what zram held of it, and were ended for want of it";
// What a run may take beyond its schedule before it is given up: guests may have to be ended, which takes twenty
// seconds.
constexpr absl::Duration kGrace = absl::Minutes(2);
constexpr int kCannotStart = 127;
// What a process of QEMU's has beside its guest's memory, and so gets beside what the pool would be: its heap, its
// devices, and where it emulates the CPU what it has translated (kForTheProcess says why).
constexpr ByteCount kForQemu = ByteCount::MiB(24), kForQemuThatEmulates = ByteCount::MiB(64);
constexpr int kMostTries = 3;

// In the child, which has the parent's memory: what it may do to the terminal or the journal it does not.
void BecomeChild(int log, pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  // Ctrl-C is for the experiment, which ends its run.
  setpgid(0, 0);
  signal(SIGINT, SIG_IGN);
  if (getppid() != parent) _exit(kCannotStart);
  dup2(log, STDERR_FILENO);
  dup2(log, STDOUT_FILENO);
}

[[noreturn]] void BecomeRun(const RunOptions& options, int fd, int procs, bool merged) {
  if (procs >= 0 && write(procs, "0", 1) != 1) _exit(kCannotStart);
  if (merged && prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0) != 0) {
    static constexpr char kWhy[] = "{\"error\": \"ksmd is told of a process's memory by prctl since Linux 6.4\"}\n";
    (void)!write(fd, kWhy, sizeof kWhy - 1);
    _exit(0);
  }
  RunAndTell(options, fd);
  _exit(0);
}

// It is outside the cgroup, and puts QEMU's processes there, which are libvirt's children.
[[noreturn]] void BecomeQemuRun(const RunOptions& options, const QemuHost& host, int fd) {
  RunQemuAndTell(options, host, fd);
  _exit(0);
}

// A run's process, from its start to its end.
class RunProcess {
 public:
  RunProcess(const Variant& variant, const RunOptions& options, const RunEnvironment& environment)
      : variant_(variant), options_(options), environment_(environment) {}

  absl::StatusOr<RunOutcome> Run();

 private:
  absl::StatusOr<pid_t> Start(UniqueFd& messages);
  QemuHost HostOfQemu(int procs) const;
  // Until the process has closed its end. Errors: Cancelled; DeadlineExceeded; ResourceExhausted, more memory than
  // there is was in use.
  absl::Status Listen(int fd);
  void Hear(absl::string_view line);
  // Error: ResourceExhausted, as of Listen.
  absl::Status Tick();
  // Gives the host kernel what the pool would have, less what zram holds of it.
  void KeepBudget(const KernelMemory& memory);
  // Whether guests' memory is more than that however low the limit is, since zram is not limited; and for a while.
  bool IsOverBudget(const KernelMemory& memory) const;
  bool IsOverBudgetForLong(const KernelMemory& memory);
  void AddKernelMemory(Sample& sample) const;
  // Of the host kernel's side: what the cgroup and zram are to hold together. What is no guest's memory, such as page
  // tables, is in no pool either, and comes on top.
  ByteCount Budget(const KernelMemory& memory) const;
  ByteCount ForProcesses() const;
  void Judge(int status);

  const Variant& variant_;
  const RunOptions& options_;
  const RunEnvironment& environment_;
  const MonotonicTime start_ = RealClock().Now();
  KernelMemory memory_;
  ByteCount limit_;
  std::optional<MonotonicTime> over_budget_since_;
  uint64_t guests_ = 0;                      // that run, as it said last
  std::unique_ptr<RunDirectory> directory_;  // of guests of QEMU
  RunOutcome outcome_;
  std::string error_;
};

absl::StatusOr<RunOutcome> RunProcess::Run() {
  UniqueFd messages;
  const absl::StatusOr<pid_t> child = Start(messages);
  if (!child.ok()) return child.status();
  const absl::Status heard = Listen(messages.get());
  if (!heard.ok()) kill(*child, SIGKILL);
  int status = 0;
  while (waitpid(*child, &status, 0) < 0 && errno == EINTR) {
  }
  if (absl::IsCancelled(heard)) return heard;
  outcome_.wall_seconds = absl::ToDoubleSeconds(RealClock().Now() - start_);
  if (heard.ok()) {
    Judge(status);
  } else {
    outcome_.end = absl::IsResourceExhausted(heard) ? RunOutcome::End::kKilled : RunOutcome::End::kFailed;
    outcome_.reason = Sentence(heard.message());
  }
  return std::move(outcome_);
}

absl::StatusOr<pid_t> RunProcess::Start(UniqueFd& messages) {
  const bool limited = variant_.on_kernel();
  UniqueFd procs;
  if (limited) {
    limit_ = Budget(memory_);
    if (absl::Status status = environment_.baseline->SetLimit(limit_); !status.ok()) return status;
    procs = UniqueFd(open(environment_.baseline->procs().c_str(), O_WRONLY | O_CLOEXEC));
    if (!procs.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("open ", environment_.baseline->procs()));
  }
  const UniqueFd log(open(environment_.log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (!log.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("open ", environment_.log));
  if (variant_.on_qemu()) {
    absl::StatusOr<std::unique_ptr<RunDirectory>> directory = RunDirectory::Create();
    if (!directory.ok()) return directory.status();
    directory_ = *std::move(directory);
  }
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "make a pipe");
  messages = UniqueFd(ends[0]);
  const UniqueFd write_end(ends[1]);
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) return absl::ErrnoToStatus(errno, "start a process for a run");
  if (child == 0) {
    messages.reset();
    BecomeChild(log.get(), parent);
    if (variant_.on_qemu()) BecomeQemuRun(options_, HostOfQemu(procs.get()), write_end.get());
    BecomeRun(options_, write_end.get(), procs.get(), limited && options_.merge == Merge::kOn);
  }
  return child;
}

QemuHost RunProcess::HostOfQemu(int procs) const {
  return {.uri = variant_.uri,
          .accel = environment_.qemu_accel,
          .directory = directory_->path(),
          .procs = procs,
          .oom_kills = [baseline = environment_.baseline] { return baseline->OomKills(); }};
}

ByteCount RunProcess::ForProcesses() const {
  if (!variant_.on_qemu()) return kForTheProcess;
  const ByteCount each = environment_.qemu_accel.kvm ? kForQemu : kForQemuThatEmulates;
  return ByteCount::Bytes(each.in_bytes() * std::max(guests_, uint64_t{1}));
}

absl::Status RunProcess::Listen(int fd) {
  absl::Duration phases;
  for (const Phase& phase : options_.schedule->phases) phases += phase.duration;
  const MonotonicTime give_up = start_ + phases + options_.schedule->fill_limit + kGrace;
  std::string heard;
  for (;;) {
    if (CaughtInterrupt() != 0) return absl::CancelledError("interrupted");
    if (RealClock().Now() > give_up) return absl::DeadlineExceededError("it did not end in time, so it was ended");
    if (absl::Status status = Tick(); !status.ok()) return status;
    pollfd readable = {.fd = fd, .events = POLLIN, .revents = 0};
    if (poll(&readable, 1, kTickMilliseconds) <= 0) continue;
    char bytes[65536];
    const ssize_t length = read(fd, bytes, sizeof bytes);
    if (length == 0) return absl::OkStatus();
    if (length < 0 && errno != EINTR) return absl::ErrnoToStatus(errno, "read what a run wrote");
    if (length > 0) heard.append(bytes, static_cast<size_t>(length));
    for (size_t end = heard.find('\n'); end != std::string::npos; end = heard.find('\n')) {
      Hear(absl::string_view(heard).substr(0, end));
      heard.erase(0, end + 1);
    }
  }
}

absl::Status RunProcess::Tick() {
  if (variant_.on_kernel()) {
    memory_ = environment_.baseline->ReadMemory();
    KeepBudget(memory_);
    if (IsOverBudgetForLong(memory_)) return absl::ResourceExhaustedError(kOverBudget);
  }
  if (environment_.while_running) {
    environment_.while_running(absl::ToDoubleSeconds(RealClock().Now() - start_));
  }
  return absl::OkStatus();
}

ByteCount RunProcess::Budget(const KernelMemory& memory) const {
  const ByteCount guests = options_.pool + ForProcesses();
  return variant_.on_qemu() ? guests : guests + memory.other();
}

bool RunProcess::IsOverBudget(const KernelMemory& memory) const {
  return memory.total() > Budget(memory) + kSmallestLimit;
}

bool RunProcess::IsOverBudgetForLong(const KernelMemory& memory) {
  if (!IsOverBudget(memory)) {
    over_budget_since_.reset();
    return false;
  }
  const MonotonicTime now = RealClock().Now();
  if (!over_budget_since_.has_value()) over_budget_since_ = now;
  return now - *over_budget_since_ >= kLongestOverBudget;
}

void RunProcess::KeepBudget(const KernelMemory& memory) {
  const ByteCount all = Budget(memory);
  const ByteCount rest = all - std::min(all, memory.zram_used);
  const ByteCount least = memory.charged - std::min(memory.charged, kStep);
  const ByteCount wanted =
      std::max({PageCount(rest.in_bytes() / kPageSize).bytes(), PageCount::Ceil(least).bytes(), kSmallestLimit});
  const ByteCount difference = std::max(wanted, limit_) - std::min(wanted, limit_);
  if (difference < ByteCount::MiB(1)) return;
  // What cannot be reclaimed at once is tried again at the next tick.
  if (environment_.baseline->SetLimit(wanted).ok()) limit_ = wanted;
}

void RunProcess::Hear(absl::string_view line) {
  absl::StatusOr<RunMessage> message = ParseMessage(line);
  if (!message.ok()) return;
  if (message->error.has_value()) error_ = *message->error;
  if (!message->report.is_null()) outcome_.report = std::move(message->report);
  if (!message->sample.has_value()) return;
  guests_ = message->sample->guests + message->sample->filling;
  if (variant_.on_kernel()) AddKernelMemory(*message->sample);
  outcome_.timeline.push_back(*std::move(message->sample));
}

void RunProcess::AddKernelMemory(Sample& sample) const {
  sample.shared = memory_.ksm_shared;
  sample.resident = memory_.resident - std::min(memory_.resident, memory_.ksm_shared);
  sample.compressed = memory_.zram_used;
  sample.other = memory_.other();
  sample.huge = memory_.huge;
  const ByteCount all = Budget(memory_);
  sample.free = all - std::min(all, memory_.total());
  sample.over_budget = IsOverBudget(memory_);
}

void RunProcess::Judge(int status) {
  using End = RunOutcome::End;
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) {
    outcome_.end = End::kKilled;
    outcome_.reason = "The host kernel killed the guests for want of memory.";
  } else if (WIFSIGNALED(status)) {
    outcome_.end = End::kFailed;
    outcome_.reason = absl::StrCat("The run was ended by signal ", WTERMSIG(status), ".");
  } else if (!error_.empty()) {
    outcome_.end = End::kFailed;
    outcome_.reason = Sentence(error_);
  } else if (outcome_.report.is_null()) {
    outcome_.end = End::kFailed;
    outcome_.reason = "The run ended without a report.";
  }
  if (outcome_.end != End::kOk) return;
  for (const Json& guest : outcome_.report["guests"]) {
    if (guest["exit"] == "ok") continue;
    const std::string exit = guest["exit"];
    const bool wrong = guest["mismatched_pages"] != 0;
    // A guest that is stopped for want of memory tells so; one that died of something else counts for more.
    if (outcome_.end == End::kFailed) continue;
    outcome_.end = wrong || !guest.value("out_of_memory", false) ? End::kFailed : End::kKilled;
    outcome_.reason = Sentence(absl::StrCat(guest["name"].get<std::string>(), ": ", exit));
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// The result
// ---------------------------------------------------------------------------------------------------------------------

bool StartsOneByOne(const Variant& variant) {
  const std::vector<Phase>& phases = variant.options.schedule->phases;
  return std::any_of(phases.begin(), phases.end(), [](const Phase& phase) { return phase.one_by_one.has_value(); });
}

bool IsMeasured(const Variant& variant, const std::string& phase) {
  for (const Phase& p : variant.options.schedule->phases) {
    if (p.name == phase && p.measured) return true;
  }
  return false;
}

template <class Get>
void AddColumn(const char* name, const std::vector<Sample>& samples, Get get, Json& timeline) {
  Json column = Json::array();
  for (const Sample& sample : samples) {
    const std::optional<ByteCount> size = get(sample);
    if (!size.has_value()) return;
    column.push_back(size->in_bytes());
  }
  timeline[name] = std::move(column);
}

// What guests say, once they do: their drivers take a while to come. Of what nobody ever says there is no column.
void AddToldColumns(const std::vector<Sample>& samples, Json& timeline) {
  using Get = std::optional<ByteCount> (*)(const Sample&);
  static constexpr std::pair<const char*, Get> kColumns[] = {
      {"rss_bytes", [](const Sample& s) { return s.rss; }},
      {"balloon_bytes", [](const Sample& s) { return s.told.balloon; }},
      {"guest_total_bytes", [](const Sample& s) { return s.told.total; }},
      {"guest_free_bytes", [](const Sample& s) { return s.told.free; }},
      {"guest_swapped_in_bytes", [](const Sample& s) { return s.told.swapped_in; }},
      {"guest_swapped_out_bytes", [](const Sample& s) { return s.told.swapped_out; }}};
  for (const auto& column : kColumns) {
    const Get get = column.second;
    if (std::none_of(samples.begin(), samples.end(), [get](const Sample& s) { return get(s).has_value(); })) continue;
    AddColumn(
        column.first, samples, [get](const Sample& s) { return std::optional(get(s).value_or(ByteCount())); },
        timeline);
  }
}

Json TimelineOf(const std::vector<Sample>& samples) {
  Json timeline = {
      {"seconds", Json::array()}, {"operations", Json::array()}, {"faults", Json::array()}, {"guests", Json::array()}};
  for (const Sample& sample : samples) {
    timeline["seconds"].push_back(sample.seconds);
    timeline["operations"].push_back(sample.operations);
    timeline["faults"].push_back(sample.faults);
    timeline["guests"].push_back(sample.guests);
  }
  AddColumn(
      "resident_bytes", samples, [](const Sample& s) { return s.resident; }, timeline);
  AddColumn(
      "shared_bytes", samples, [](const Sample& s) { return s.shared; }, timeline);
  AddColumn(
      "compressed_bytes", samples, [](const Sample& s) { return s.compressed; }, timeline);
  AddColumn(
      "other_bytes", samples, [](const Sample& s) { return s.other; }, timeline);
  AddColumn(
      "free_bytes", samples, [](const Sample& s) { return s.free; }, timeline);
  AddColumn(
      "huge_bytes", samples, [](const Sample& s) { return s.huge; }, timeline);
  AddToldColumns(samples, timeline);
  return timeline;
}

// Of guests that start one after another.
uint64_t GuestsThatFit(const RunOutcome& outcome, uint64_t most) {
  // Those fitted that were there while memory was enough.
  uint64_t within = 0;
  bool over = false;
  for (const Sample& sample : outcome.timeline) {
    over |= sample.over_budget;
    if (!sample.over_budget) within = std::max(within, sample.guests);
  }
  if (over) return within;
  // Memory was too little for those that were there: the last one to come was too much. Otherwise it has not been
  // counted, because it was still filling its memory.
  const bool all_were_there = !outcome.timeline.empty() && outcome.timeline.back().filling == 0;
  return outcome.end == RunOutcome::End::kKilled && all_were_there && most > 0 ? most - 1 : most;
}

// What samples tell, also of a run that was killed.
void AddSampledValues(const Variant& variant, const RunOutcome& outcome, Json& values) {
  std::vector<double> used, huge;
  uint64_t most_guests = 0;
  double peak = 0;
  for (const Sample& sample : outcome.timeline) {
    most_guests = std::max(most_guests, sample.guests);
    const double bytes = static_cast<double>(sample.used().in_bytes());
    peak = std::max(peak, bytes);
    if (!IsMeasured(variant, sample.phase)) continue;
    used.push_back(bytes);
    const double resident =
        static_cast<double>((sample.resident.value_or(ByteCount()) + sample.shared.value_or(ByteCount())).in_bytes());
    // The two are read one after the other.
    if (resident > 0 && sample.huge) {
      huge.push_back(std::min(static_cast<double>(sample.huge->in_bytes()) / resident, 1.0));
    }
  }
  // Which is looked at more often.
  if (!outcome.report.is_null()) {
    for (const Json& phase : outcome.report["phases"]) {
      most_guests = std::max(most_guests, phase["guests"].get<uint64_t>());
    }
  }
  values["guests_that_ran"] = most_guests;
  if (StartsOneByOne(variant)) values["guests_that_fit"] = GuestsThatFit(outcome, most_guests);
  values["peak_memory_bytes"] = peak;
  if (!used.empty()) values["memory_bytes"] = Median(used);
  double sum = 0;
  for (const double share : huge) sum += share;
  if (!huge.empty()) values["huge_share"] = sum / static_cast<double>(huge.size());
}

// What guests with a kernel said of themselves in numbers: the sum of all of them.
void AddConsoleValues(const Json& report, Json& values) {
  for (const Json& guest : report["guests"]) {
    if (!guest.contains("console") || !guest["console"].is_object()) continue;
    for (const auto& [key, text] : guest["console"].items()) {
      double number = 0;
      if (!text.is_string() || !absl::SimpleAtod(text.get<std::string>(), &number)) continue;
      if (!std::isfinite(number)) continue;
      const std::string name = absl::StrCat("console.", key);
      values[name] = values.value(name, 0.0) + number;
    }
  }
}

void AddReportedValues(const Json& report, Json& values) {
  double seconds = 0, operations = 0, faults = 0, cpu = 0;
  for (const Json& phase : report["phases"]) {
    if (!phase["measured"].get<bool>()) continue;
    seconds += phase["end_seconds"].get<double>() - phase["begin_seconds"].get<double>();
    operations += phase["operations"].get<double>();
    faults += phase["faults"].get<double>();
    cpu += phase["cpu_seconds"].get<double>();
  }
  const bool managed = report["engine"] == "quire";
  if (seconds > 0) {
    values["operations_per_second"] = operations / seconds;
    if (managed) values["faults_per_second"] = faults / seconds;
    values["cpu_seconds"] = cpu;
  }
  if (report["latency"]["p99_us"] > 0) {
    values["latency_p50_us"] = report["latency"]["p50_us"];
    values["latency_p99_us"] = report["latency"]["p99_us"];
  }
  double wrong = 0;
  for (const Json& guest : report["guests"]) wrong += guest["mismatched_pages"].get<double>();
  values["mismatched_pages"] = wrong;
  AddConsoleValues(report, values);
  if (!managed) return;
  values["fault_p50_us"] = report["faults"]["p50_us"];
  values["fault_p99_us"] = report["faults"]["p99_us"];
  values["saved_bytes"] = report["merge"]["saved_bytes"];
}

Json LatencyOf(const Json& from) {
  // Nothing lies at or above the last bound; the page wants a count for that too.
  Json counts = from["counts"];
  counts.push_back(0);
  return {{"us", from["bounds_us"]}, {"counts", std::move(counts)}};
}

Json PhasesOf(const Json& report) {
  Json phases = Json::array();
  for (const Json& phase : report["phases"]) {
    const double seconds = phase["end_seconds"].get<double>() - phase["begin_seconds"].get<double>();
    Json json = {{"name", phase["name"]},
                 {"begin", phase["begin_seconds"]},
                 {"end", phase["end_seconds"]},
                 {"measured", phase["measured"]},
                 {"guests", phase["guests"]}};
    if (seconds > 0) json["operations_per_second"] = phase["operations"].get<double>() / seconds;
    phases.push_back(std::move(json));
  }
  return phases;
}

absl::string_view Name(RunOutcome::End end) {
  switch (end) {
    case RunOutcome::End::kOk:
      return "ok";
    case RunOutcome::End::kKilled:
      return "killed";
    case RunOutcome::End::kFailed:
      return "failed";
  }
  return "";
}

absl::Status PrepareHost(const Variant& variant, const RunEnvironment& environment) {
  if (environment.baseline == nullptr) return absl::OkStatus();
  if (!variant.on_kernel()) return environment.baseline->Rest();
  const KernelTuning tuning =
      variant.contender == Contender::kKernelBest ? KernelTuning::kAtItsBest : KernelTuning::kAsItComes;
  return environment.baseline->Prepare(tuning, variant.options.merge == Merge::kOn);
}

// Whether the host kernel killed a run that had hardly begun: now and then it finds nothing to reclaim in a small
// cgroup while guests under KVM fill their memory, though there is swap space enough.
bool MayBeTriedAgain(const Variant& variant, const RunOutcome& outcome) {
  return variant.on_kernel() && outcome.end == RunOutcome::End::kKilled && !StartsOneByOne(variant);
}

}  // namespace

double SecondsOf(const Variant& variant) {
  absl::Duration all;
  for (const Phase& phase : variant.options.schedule->phases) {
    absl::Duration duration = phase.duration;
    if (const auto& order = phase.one_by_one) {
      duration = std::min(duration, order->every * variant.options.groups[order->group].guests);
    }
    all += duration;
  }
  return absl::ToDoubleSeconds(all);
}

absl::StatusOr<RunOutcome> RunVariant(const Variant& variant, uint64_t seed, const RunEnvironment& environment) {
  RunOptions options = variant.options;
  options.seed = seed;
  if (options.accel == Accel::kAuto) options.accel = environment.accel;
  if (absl::Status status = PrepareHost(variant, environment); !status.ok()) return status;
  for (int tries = 1;; ++tries) {
    if (absl::Status status = TouchHostMemory(options.pool + options.pool); !status.ok()) return status;
    absl::StatusOr<RunOutcome> outcome = RunProcess(variant, options, environment).Run();
    if (!outcome.ok()) return outcome;
    outcome->tries = tries;
    if (!MayBeTriedAgain(variant, *outcome) || tries == kMostTries) return outcome;
    if (absl::Status status = PrepareHost(variant, environment); !status.ok()) return status;
  }
}

Json ResultOf(const Variant& variant, const RunOutcome& outcome) {
  // Memory that is not enough is how guests that start one after another end.
  const bool full = outcome.end == RunOutcome::End::kKilled && StartsOneByOne(variant);
  Json values = {{"guest_memory_bytes", variant.options.all_memory().in_bytes()},
                 {"wall_seconds", outcome.wall_seconds}};
  if (variant.on_kernel()) values["tries"] = outcome.tries;
  AddSampledValues(variant, outcome, values);
  Json result = {{"outcome", Name(full ? RunOutcome::End::kOk : outcome.end)},
                 {"reason", outcome.reason},
                 {"wall_seconds", outcome.wall_seconds},
                 {"phases", Json::array()},
                 {"timeline", TimelineOf(outcome.timeline)},
                 {"report", outcome.report}};
  if (!outcome.report.is_null()) {
    AddReportedValues(outcome.report, values);
    result["phases"] = PhasesOf(outcome.report);
    if (outcome.report["latency"]["p99_us"] > 0) result["latency"] = LatencyOf(outcome.report["latency"]);
    if (outcome.report["fault_latency"]["p99_us"] > 0) {
      result["fault_latency"] = LatencyOf(outcome.report["fault_latency"]);
    }
  }
  result["values"] = std::move(values);
  return result;
}

}  // namespace quire
