#include "vmm/command_line.h"

#include <unistd.h>

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/flags/declare.h"
#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "vmm/accel.h"
#include "vmm/bench/bench.h"
#include "vmm/bench/bench_options.h"
#include "vmm/bench/bench_report.h"
#include "vmm/bench/benchmark.h"
#include "vmm/bench/measurement.h"
#include "vmm/control/client.h"
#include "vmm/control/request.h"
#include "vmm/control/socket_place.h"
#include "vmm/doctor.h"
#include "vmm/domain_command.h"
#include "vmm/experiment_command.h"
#include "vmm/files.h"
#include "vmm/flags.h"
#include "vmm/guest_set.h"
#include "vmm/host_facts.h"
#include "vmm/interrupt.h"
#include "vmm/manage_command.h"
#include "vmm/options.h"
#include "vmm/pc_options.h"
#include "vmm/progress.h"
#include "vmm/report.h"
#include "vmm/results/page.h"
#include "vmm/run.h"
#include "vmm/summary.h"
#include "vmm/text.h"
#include "vmm/top/top.h"
#include "vmm/top/top_view.h"
#include "vmm/version.h"
#include "vmm/zones.h"
#include "workloads/spec.h"

ABSL_DECLARE_FLAG(std::optional<std::string>, json);
ABSL_FLAG(std::optional<std::string>, guest, std::nullopt, "which guest: its number, from 0, or its name");
ABSL_FLAG(std::optional<uint64_t>, gfn, std::nullopt, "which of its pages: the guest frame number, address / 4096");
ABSL_FLAG(std::optional<uint64_t>, frame, std::nullopt,
          "instead of a guest's page: which frame of the pool, as `quire explain` names it");
ABSL_FLAG(std::optional<quire::ByteCount>, size, std::nullopt,
          "how large the balloon is to be (default: as it is; only look)");
ABSL_FLAG(std::optional<std::string>, out, std::nullopt, "where the result goes");
ABSL_FLAG(
    std::optional<std::string>, socket, std::nullopt,
    "the control socket of the run, as `quire run --control=PATH` made it (default: that of the only run there is)");

ABSL_FLAG(double, interval, 1, "seconds from one look at the run to the next");
ABSL_FLAG(std::string, sort, "guest",
          "the column that guests are sorted by: guest, state, operations, faults, reclaim, balloon, limit or memory");
ABSL_FLAG(bool, once, false, "one look, of one interval, and no more");

namespace quire {
namespace {

using Args = absl::Span<const absl::string_view>;

constexpr absl::string_view kExitStatuses =
    "Exit status\n"
    "  0  all well\n"
    "  1  a guest died, read a wrong byte, or ended with a status that is not 0\n"
    "  2  the command line, or a file it names, is wrong\n"
    "  3  the host lacks something (`quire doctor` says what)\n"
    "  4  out of memory\n";

constexpr absl::string_view kRunExamples =
    "Examples\n"
    "  quire run\n"
    "      four guests in half of their memory, for ten seconds\n"
    "  quire run --guests=8 --memory=1G --pool=3G --workload=zipf:theta=0.8 --seconds=60\n"
    "      eight guests of 1 GiB in 3 GiB, with less of a hot set\n"
    "  quire run --engine=kernel --json=kernel.json\n"
    "      the same guests with the host's own memory management, for comparison\n"
    "  quire run --kernel=auto --memory=1G --pool=256M\n"
    "      the host's own kernel as a guest of 1 GiB in 256 MiB, which says what it sees and powers off\n"
    "  quire run --kernel=vmlinuz --initrd=initrd.img --cmdline='console=ttyS0' --disk=root.img\n"
    "      a Linux guest on this terminal; Ctrl-A x quits\n"
    "  quire run --domain=web.xml --pool=1G\n"
    "      the guest that a domain of libvirt's describes, as `virsh dumpxml web` prints it; --check only says what\n"
    "      becomes of its elements\n"
    "  quire run --json=- | jq .pool\n"
    "      the report on standard output, all else on standard error\n";

const std::vector<FlagGroup>& DoctorFlags() {
  static const auto* groups = new std::vector<FlagGroup>{
      {"Output", {{"json", "FILE", "write the path of a file, or - for standard output", "-"}}}};
  return *groups;
}

// Says what went wrong, in one sentence.
ExitStatus Fail(const absl::Status& status, Console& console) {
  console.err << "quire: " << Sentence(status.message()) << std::endl;
  return ToExitStatus(status);
}

// ---------------------------------------------------------------------------------------------------------------------
// quire run
// ---------------------------------------------------------------------------------------------------------------------

const std::vector<FlagGroup>& AllRunFlags() {
  static const auto* groups = [] {
    auto* all = new std::vector<FlagGroup>(RunFlags());
    all->insert(all->end() - 1, DomainFlags());  // what comes out stays last
    return all;
  }();
  return *groups;
}

std::string RunHelp() {
  return absl::StrCat("Usage: quire run [flags]\n\n",
                      "Runs guests in less memory than they have. Each verifies every page that it reads.\n\n",
                      FlagsHelp(AllRunFlags()), "Workloads, for --workload=NAME or --workload=NAME:key=value,...\n",
                      WorkloadHelp(), "\nSizes are bytes, or numbers with K, M, G or T such as 256M or 1.5G.\n\n",
                      kRunExamples, "\n", kExitStatuses);
}

absl::Status CheckOptions(const RunOptions& options, ByteCount host_memory) {
  const RunLimits limits = {.host_memory = host_memory,
                            .guest_address_space = GuestAddressSpace(),
                            .minimum_pool = MinimumPool(options),
                            .check_workload = [](absl::string_view spec) { return ParseWorkload(spec).status(); }};
  const absl::Status valid = Validate(options, limits);
  return valid.ok() ? CheckFiles(options) : valid;
}

absl::StatusOr<RunOptions> ValidOptions(const std::optional<GivenDomain>& domain, const std::set<std::string>& given,
                                        const Host& host) {
  absl::StatusOr<RunOptions> options = domain ? OptionsOf(*domain, given) : RunOptionsFromFlags();
  if (!options.ok()) return options;
  const absl::Status valid = CheckOptions(*options, UsableMemory(host));
  if (valid.ok()) return options;
  if (!domain) return valid;
  return absl::Status(valid.code(), absl::StrCat("domain ", domain->reading.guest.name, ": ", valid.message()));
}

// What is about to be run.
std::string Opening(const RunOptions& options, const AccelDecision& accel) {
  const std::string clones =
      options.clones == 0 ? ""
                          : absl::StrCat(" and ", Plural(static_cast<uint64_t>(options.clones), "clone"), " of it");
  const std::string guests =
      absl::StrCat(Plural(static_cast<uint64_t>(options.guests), "guest"), " of ", FormatSize(options.memory), clones);
  const std::string where = options.engine == Engine::kKernel
                                ? " in memory that the host manages"
                                : absl::StrCat(" in a pool of ", FormatSize(options.pool));
  const std::string what = options.pc        ? absl::StrCat("kernel ", options.pc->kernel)
                           : options.payload ? absl::StrCat("payload ", *options.payload)
                                             : absl::StrCat("workload ", options.workload);
  return absl::StrCat(guests, where, ", ", what, ", accel=", Name(accel.accel), " because ", accel.because, ".\n");
}

absl::string_view OwnProgram(const RunOptions& options) {
  return options.pc ? "--kernel" : options.payload ? "--payload" : "";
}

// Where a guest's console leads if the user does not say: to the terminal, where that is one and there is one guest.
ConsoleTarget DefaultConsole(const RunOptions& options, const Terminal& terminal) {
  const bool shown = options.guests == 1 && terminal.interactive && isatty(STDIN_FILENO) == 1;
  return {.kind = shown ? ConsoleTarget::Kind::kTerminal : ConsoleTarget::Kind::kLines};
}

// What a run shows of itself while a guest has the terminal.
class NoProgress : public ProgressSink {
 public:
  explicit NoProgress(std::function<bool()> interrupted) : interrupted_(std::move(interrupted)) {}
  void Update(const Snapshot&) override {}
  void ShowLine(absl::string_view) override {}
  bool interrupted() const override { return interrupted_(); }

 private:
  const std::function<bool()> interrupted_;
};

// Decides what executes the guests, runs them and shows how it goes on `out`.
absl::StatusOr<Report> RunVisibly(RunOptions options, std::ostream& out, const std::function<Terminal()>& terminal,
                                  const Host& host) {
  const absl::StatusOr<AccelDecision> accel =
      DecideAccel({.accel = options.accel, .engine = options.engine, .own_program = OwnProgram(options)}, host);
  if (!accel.ok()) return accel.status();
  options.accel = accel->accel;
  if (options.pc && !options.pc->console) options.pc->console = DefaultConsole(options, terminal());
  out << Opening(options, *accel);
  for (const std::string& note : Notes(options)) out << note << "\n";
  out << "\n" << std::flush;
  CatchInterrupts();
  const auto interrupted = [] { return CaughtInterrupt() != 0; };
  ProgressPrinter progress(out, terminal, interrupted);
  NoProgress no_progress(interrupted);
  const bool guest_has_terminal = options.pc && options.pc->console->kind == ConsoleTarget::Kind::kTerminal;
  absl::StatusOr<Report> report =
      RunGuests(options, guest_has_terminal ? static_cast<ProgressSink&>(no_progress) : progress);
  progress.Clear();
  if (report.ok()) out << Summary(*report, terminal()) << std::flush;
  return report;
}

ExitStatus Run(Args args, Console& console) {
  std::set<std::string> given;
  const absl::Status parsed = ParseFlags("quire run", args, AllRunFlags(), &given);
  if (!parsed.ok()) return Fail(parsed, console);
  // A report on standard output has it for itself.
  const std::optional<std::string> json = absl::GetFlag(FLAGS_json);
  const bool aside = json == "-" || json == "/dev/stdout";
  std::ostream& out = aside ? console.err : console.out;
  const absl::StatusOr<std::optional<GivenDomain>> domain = DomainFromFlags();
  if (!domain.ok()) return Fail(domain.status(), console);
  if (domain->has_value()) {
    const absl::Status shown = ShowDomain(**domain, out);
    if (!shown.ok()) return Fail(shown, console);
    if (OnlyCheckDomain()) {
      const absl::Status agreed = OptionsOf(**domain, given).status();
      return agreed.ok() ? ExitStatus::kAllWell : Fail(agreed, console);
    }
  }
  const absl::StatusOr<RunOptions> options = ValidOptions(*domain, given, console.host);
  if (!options.ok()) return Fail(options.status(), console);
  const absl::StatusOr<Report> report =
      RunVisibly(*options, out, aside ? console.err_terminal : console.out_terminal, console.host);
  if (!report.ok()) return Fail(report.status(), console);
  if (options->json) {
    if (absl::Status written = WriteWhole(*options->json, ToJson(*report)); !written.ok())
      return Fail(written, console);
  }
  return ToExitStatus(*report);
}

// ---------------------------------------------------------------------------------------------------------------------
// quire bench
// ---------------------------------------------------------------------------------------------------------------------

constexpr absl::string_view kBenchExamples =
    "Examples\n"
    "  quire bench refault-dense\n"
    "      five runs of each side, in turn, with this program's own file as the pages' content\n"
    "  quire bench overcommit --memory=1G --content=/usr/bin/qemu-system-x86_64 --json=overcommit.json\n"
    "      a guest of 1 GiB in 512 MiB\n"
    "  quire bench touch --side=quire\n"
    "      one measurement of one side, as a line of JSON: to be run under a profiler\n";

std::string BenchHelp() {
  return absl::StrCat(
      "Usage: quire bench NAME [flags]\n\n",
      "Measures Quire against the host kernel's own memory management: the same guest, program and\n"
      "content, and as much memory in all. The kernel's side has swap space in zram with lz4, a memory\n"
      "cgroup where memory is short, and ksmd where pages are merged. All need root, and are taken\n"
      "down again afterwards or put back.\n\n"
      "Benchmarks\n",
      BenchmarkHelp(), "\n", FlagsHelp(BenchFlags()), kBenchExamples, "\n", kExitStatuses);
}

absl::StatusOr<BenchOptions> ValidBenchOptions(Args args, const Host& host) {
  if (args.empty() || absl::StartsWith(args[0], "-")) {
    return absl::InvalidArgumentError("no benchmark is named: `quire bench --help` lists them");
  }
  const Benchmark* const benchmark = FindBenchmark(args[0]);
  const std::vector<FlagGroup> flags = benchmark == nullptr ? BenchFlags() : BenchFlags(*benchmark);
  if (absl::Status parsed = ParseFlags("quire bench", args.subspan(1), flags); !parsed.ok()) return parsed;
  absl::StatusOr<BenchOptions> options = BenchOptionsFromFlags(args[0]);
  if (!options.ok()) return options;
  if (options->benchmark->paired && !options->side.has_value()) options->guest.vcpus = host.Cpus();
  // The kernel's side is measured in a cgroup that is meant to be smaller than its guest.
  const ByteCount most = options->side.has_value() ? GuestAddressSpace() : UsableMemory(host);
  if (absl::Status valid = CheckOptions(options->guest, most); !valid.ok()) return valid;
  // Software guests can have either engine too.
  const absl::StatusOr<AccelDecision> accel = DecideAccel({.accel = options->guest.accel}, host);
  if (!accel.ok()) return accel.status();
  options->guest.accel = accel->accel;
  return options;
}

std::string WhatIsMeasured(const BenchOptions& options) {
  const RunOptions& guest = options.guest;
  const std::string content = absl::StrCat("content of ", *guest.content);
  if (options.benchmark->merges) {
    return absl::StrCat(Plural(static_cast<uint64_t>(guest.guests), "guest"), " with ", FormatSize(guest.memory),
                        " together, ", content, ".\n");
  }
  return absl::StrCat("a guest of ", FormatSize(guest.memory), " with ",
                      Plural(static_cast<uint64_t>(guest.vcpus), "vCPU"), ", ", content, ", accel=", Name(guest.accel),
                      ".\n");
}

ExitStatus MeasureOneSide(const BenchOptions& options, Console& console) {
  CatchInterrupts();
  const absl::StatusOr<Measurement> measured = Measure(*options.benchmark, options.guest, *options.side);
  if (!measured.ok()) return Fail(measured.status(), console);
  console.out << ToJsonLine(*measured) << std::flush;
  return ExitStatus::kAllWell;
}

ExitStatus Bench(Args args, Console& console) {
  const absl::StatusOr<BenchOptions> options = ValidBenchOptions(args, console.host);
  if (!options.ok()) return Fail(options.status(), console);
  if (options->side.has_value()) return MeasureOneSide(*options, console);
  const std::optional<std::string>& json = options->guest.json;
  const bool aside = json == "-";
  std::ostream& out = aside ? console.err : console.out;
  out << absl::StrCat(options->benchmark->name, ": ", options->benchmark->what, ".\n",
                      Plural(static_cast<uint64_t>(options->runs), "run"), " of each side, ", WhatIsMeasured(*options))
      << std::flush;
  const absl::StatusOr<BenchReport> report = RunBenchmark(*options, out);
  if (!report.ok()) return Fail(report.status(), console);
  out << Summary(*report, aside ? console.err_terminal() : console.out_terminal()) << std::flush;
  if (json) {
    if (absl::Status written = WriteWhole(*json, ToJson(*report)); !written.ok()) return Fail(written, console);
  }
  return ToExitStatus(*report);
}

// ---------------------------------------------------------------------------------------------------------------------
// The other commands
// ---------------------------------------------------------------------------------------------------------------------

std::string DoctorHelp() {
  return absl::StrCat("Usage: quire doctor [flags]\n\n",
                      "Says what this host offers, what `quire run` will use, and how to get what is missing.\n\n",
                      FlagsHelp(DoctorFlags()), kExitStatuses);
}

ExitStatus Doctor(Args args, Console& console) {
  if (absl::Status parsed = ParseFlags("quire doctor", args, DoctorFlags()); !parsed.ok()) return Fail(parsed, console);
  const std::optional<std::string> json = absl::GetFlag(FLAGS_json);
  if (json) {
    if (absl::Status writable = CheckWritable("json", *json); !writable.ok()) return Fail(writable, console);
  }
  const Diagnosis diagnosis = Diagnose(console.host);
  if (json != "-") console.out << ToText(diagnosis) << std::flush;
  if (json) {
    if (absl::Status written = WriteWhole(*json, ToJson(diagnosis)); !written.ok()) return Fail(written, console);
  }
  return ToExitStatus(diagnosis);
}

std::string ZonesHelp() {
  return absl::StrCat(
      "Usage: quire zones [FILE]\n\n",
      "Prints which small objects the pool held when a run ended, as `vmstat -z` does for FreeBSD's kernel: size in\n"
      "bytes, limit (0: none), objects used and free, how often one was asked for and was not to be had, and frames\n"
      "of 4 KiB. FILE is the report of `quire run --json=FILE`; - or nothing is standard input.\n\n"
      "Examples\n"
      "  quire run --json=report.json && quire zones report.json\n"
      "  quire run --json=- | quire zones\n\n",
      kExitStatuses);
}

ExitStatus Zones(Args args, Console& console) {
  std::string path = "-";
  if (!args.empty() && (args[0] == "-" || !absl::StartsWith(args[0], "-"))) {
    path = std::string(args[0]);
    args.remove_prefix(1);
  }
  if (absl::Status parsed = ParseFlags("quire zones", args, {}); !parsed.ok()) return Fail(parsed, console);
  const absl::StatusOr<std::string> report = ReadReport(path);
  if (!report.ok()) return Fail(report.status(), console);
  const absl::StatusOr<std::string> table = ZonesTable(*report);
  if (!table.ok()) return Fail(table.status(), console);
  console.out << *table << std::flush;
  return ExitStatus::kAllWell;
}

std::string ExperimentText() { return absl::StrCat(ExperimentHelp(), kExitStatuses); }

ExitStatus Experiment(Args args, Console& console) {
  const absl::Status status = ExperimentCommand(args, console);
  return status.ok() ? ExitStatus::kAllWell : Fail(status, console);
}

std::string ManageText() { return absl::StrCat(ManageHelp(), kExitStatuses); }

ExitStatus Manage(Args args, Console& console) {
  const absl::Status status = ManageCommand(args, console);
  return status.ok() ? ExitStatus::kAllWell : Fail(status, console);
}

const std::vector<FlagGroup>& ReportFlags() {
  static const auto* groups =
      new std::vector<FlagGroup>{{"Output", {{"out", "FILE", "write the path of a file, or - for standard output"}}}};
  return *groups;
}

std::string ReportHelp() {
  return absl::StrCat(
      "Usage: quire report DIR [flags]\n\n",
      "Makes a page of an experiment's results: what came out and how sure that is, charts, the numbers behind them,\n"
      "and how it was measured. DIR is what `quire experiment FILE --out=DIR` wrote to; it may still be at work. The "
      "page\n"
      "is one HTML file with everything in it. What came out is printed too.\n\n",
      FlagsHelp(ReportFlags()),
      "Examples\n"
      "  quire report results/overcommit\n"
      "      writes results/overcommit/report.html\n"
      "  quire report results/overcommit --out=- > page.html\n"
      "      the page on standard output, what came out on standard error\n\n",
      kExitStatuses);
}

ExitStatus ReportExperiment(Args args, Console& console) {
  if (args.empty() || absl::StartsWith(args[0], "-")) {
    return Fail(absl::InvalidArgumentError("no directory is named: write `quire report DIR`, with the directory that "
                                           "`quire experiment FILE --out=DIR` wrote to"),
                console);
  }
  const std::string dir(args[0]);
  if (absl::Status parsed = ParseFlags("quire report", args.subspan(1), ReportFlags()); !parsed.ok()) {
    return Fail(parsed, console);
  }
  const absl::StatusOr<results::ExperimentReport> report = results::ReportOf(dir);
  if (!report.ok()) return Fail(report.status(), console);
  const std::string out = absl::GetFlag(FLAGS_out).value_or(dir + "/report.html");
  if (absl::Status writable = CheckWritable("out", out); !writable.ok()) return Fail(writable, console);
  if (absl::Status written = WriteWhole(out, report->page); !written.ok()) return Fail(written, console);
  const bool aside = out == "-";
  (aside ? console.err : console.out) << report->verdict << (aside ? "" : absl::StrCat("\nThe page: ", out, "\n"))
                                      << std::flush;
  return ExitStatus::kAllWell;
}

// ---------------------------------------------------------------------------------------------------------------------
// Questions to a run
// ---------------------------------------------------------------------------------------------------------------------

const std::vector<FlagGroup>& ExplainFlags() {
  static const auto* groups = new std::vector<FlagGroup>{
      {"What to explain",
       {{"guest", "ID", "write a number such as 0, or a name such as guest-0"},
        {"gfn", "N", "write a page number such as 4711 or 0x1267"}}},
      {"Of which run", {{"socket", "PATH", "write the path of its control socket"}}},
      {"Output", {{"json", "FILE", "write the path of a file, or - for standard output", "-"}}}};
  return *groups;
}

std::string ExplainHelp() {
  return absl::StrCat(
      "Usage: quire explain --guest=ID --gfn=N [flags]\n\n",
      "Says of a page of a guest that is running, by `quire run` of the same user, whether it is in memory, mapped by\n"
      "2 MiB, and merged with others, and why not.\n\n",
      FlagsHelp(ExplainFlags()),
      "Examples\n"
      "  quire explain --guest=0 --gfn=4711\n"
      "      of the only run there is\n"
      "  quire explain --guest=guest-1 --gfn=0x1267 --socket=/run/quire/4242.sock\n"
      "      of one of several\n"
      "  quire explain --guest=0 --gfn=4711 --json | jq .merge_refused\n"
      "      for scripts: in the words of the report's merge.refused\n\n",
      kExitStatuses);
}

// What the flags say, but for what is missing.
absl::StatusOr<ControlRequest> RequestOfFlags(ControlRequest::Command command) {
  const std::string guest = absl::GetFlag(FLAGS_guest).value_or("");
  if (!guest.empty() && !IsGuestName(guest)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--guest=", guest, " is no guest: write its number or name, such as guest-0"));
  }
  return ControlRequest{
      .command = command, .guest = guest, .gfn = absl::GetFlag(FLAGS_gfn), .frame = absl::GetFlag(FLAGS_frame)};
}

absl::StatusOr<ControlRequest> RequestToGuest(ControlRequest::Command command) {
  absl::StatusOr<ControlRequest> request = RequestOfFlags(command);
  if (!request.ok() || !request->guest.empty()) return request;
  return absl::InvalidArgumentError("no guest is named: write --guest=0, or another's number");
}

absl::StatusOr<ControlRequest> ExplainRequest() {
  absl::StatusOr<ControlRequest> request = RequestToGuest(ControlRequest::Command::kExplain);
  if (!request.ok()) return request;
  if (!request->gfn) return absl::InvalidArgumentError("no page is named: write --gfn=4711, or another's number");
  return request;
}

absl::StatusOr<ControlRequest> PoisonRequest() {
  absl::StatusOr<ControlRequest> request = RequestOfFlags(ControlRequest::Command::kPoison);
  if (!request.ok()) return request;
  const bool page = !request->guest.empty() && request->gfn, part = !request->guest.empty() || request->gfn;
  if (request->frame ? !part : page) return request;
  return absl::InvalidArgumentError("name either a page with --guest=0 --gfn=4711, or a frame with --frame=1303");
}

absl::StatusOr<std::string> AskChosenRun(const ControlRequest& request) {
  const absl::StatusOr<std::string> socket = ChooseSocket(absl::GetFlag(FLAGS_socket), RunningSockets());
  return socket.ok() ? AskRun(*socket, request) : socket.status();
}

// For people, or as the flags say.
ExitStatus Show(const absl::StatusOr<std::string>& answer, Console& console) {
  if (!answer.ok()) return Fail(answer.status(), console);
  const std::optional<std::string> json = absl::GetFlag(FLAGS_json);
  if (json == "-") {
    console.out << *answer << std::endl;
    return ExitStatus::kAllWell;
  }
  const absl::StatusOr<std::string> text = AnswerText(*answer);
  if (!text.ok()) return Fail(text.status(), console);
  console.out << *text << std::flush;
  if (json) {
    const absl::Status written = WriteWhole(*json, absl::StrCat(*answer, "\n"));
    if (!written.ok()) return Fail(written, console);
  }
  return ExitStatus::kAllWell;
}

ExitStatus Ask(const absl::StatusOr<ControlRequest>& request, Console& console) {
  return request.ok() ? Show(AskChosenRun(*request), console) : Fail(request.status(), console);
}

ExitStatus Explain(Args args, Console& console) {
  const absl::Status parsed = ParseFlags("quire explain", args, ExplainFlags());
  return parsed.ok() ? Ask(ExplainRequest(), console) : Fail(parsed, console);
}

const std::vector<FlagGroup>& PoisonFlags() {
  static const auto* groups = new std::vector<FlagGroup>{
      {"What fails",
       {{"guest", "ID", "write a number such as 0, or a name such as guest-0"},
        {"gfn", "N", "write a page number such as 4711 or 0x1267"},
        {"frame", "N", "write a frame number such as 1303"}}},
      {"Of which run", {{"socket", "PATH", "write the path of its control socket"}}},
      {"Output", {{"json", "FILE", "write the path of a file, or - for standard output", "-"}}}};
  return *groups;
}

std::string PoisonHelp() {
  return absl::StrCat(
      "Usage: quire poison --guest=ID --gfn=N | --frame=N [flags]\n\n",
      "Has a run, of `quire run` by the same user, take the frame that a page has for failed memory, to see what\n"
      "becomes of its guests: the frame is never used again, and what was in it is not read any more. Nothing happens\n"
      "to the host's memory.\n\n",
      FlagsHelp(PoisonFlags()),
      "Examples\n"
      "  quire poison --guest=0 --gfn=4711\n"
      "      guest-0 is stopped if it touches the page again without having given it up\n"
      "  quire poison --frame=1303 --json\n"
      "      whatever is in that frame; for scripts\n\n",
      kExitStatuses);
}

ExitStatus Poison(Args args, Console& console) {
  const absl::Status parsed = ParseFlags("quire poison", args, PoisonFlags());
  return parsed.ok() ? Ask(PoisonRequest(), console) : Fail(parsed, console);
}

const std::vector<FlagGroup>& BalloonFlags() {
  static const auto* groups = new std::vector<FlagGroup>{
      {"Whose balloon",
       {{"guest", "ID", "write a number such as 0, or a name such as guest-0"},
        {"size", "SIZE", "write a size such as 256M, or 0"}}},
      {"Of which run", {{"socket", "PATH", "write the path of its control socket"}}},
      {"Output", {{"json", "FILE", "write the path of a file, or - for standard output", "-"}}}};
  return *groups;
}

std::string BalloonHelp() {
  return absl::StrCat(
      "Usage: quire balloon --guest=ID [--size=SIZE] [flags]\n\n",
      "Takes memory from a guest of `quire run --kernel`, or gives it back: its balloon is to hold so much, none with\n"
      "--size=0. The guest's driver does what it can, in its own time. Says how things are, and how much of the pool\n"
      "is in use; without --size, that alone.\n\n",
      FlagsHelp(BalloonFlags()),
      "Examples\n"
      "  quire balloon --guest=0 --size=256M\n"
      "      the pool gets 256 MiB of the guest's memory, and the guest goes on with the rest\n"
      "  quire balloon --guest=0 --json | jq .actual_bytes\n"
      "      how large the balloon is\n\n",
      kExitStatuses);
}

absl::StatusOr<ControlRequest> BalloonRequest() {
  const std::optional<ByteCount> size = absl::GetFlag(FLAGS_size);
  absl::StatusOr<ControlRequest> request =
      RequestToGuest(size ? ControlRequest::Command::kChangeGuest : ControlRequest::Command::kGuest);
  if (!request.ok()) return request;
  if (size) request->balloon_bytes = size->in_bytes();
  request->fresh_statistics = !size;  // a change comes with them
  return request;
}

ExitStatus AskBalloon(Args args, Console& console) {
  const absl::Status parsed = ParseFlags("quire balloon", args, BalloonFlags());
  if (!parsed.ok()) return Fail(parsed, console);
  const absl::StatusOr<ControlRequest> request = BalloonRequest();
  if (!request.ok()) return Fail(request.status(), console);
  const absl::StatusOr<std::string> guest = AskChosenRun(*request);
  return Show(guest.ok() ? BalloonOf(*guest) : guest, console);
}

std::string DomainXmlText() { return absl::StrCat(DomainXmlHelp(), kExitStatuses); }

ExitStatus PrintDomainXml(Args args, Console& console) {
  const absl::Status status = DomainXmlCommand(args, console);
  return status.ok() ? ExitStatus::kAllWell : Fail(status, console);
}

const std::vector<FlagGroup>& TopFlags() {
  static const auto* groups =
      new std::vector<FlagGroup>{{"Of which run", {{"socket", "PATH", "write the path of its control socket"}}},
                                 {"What is shown",
                                  {{"interval", "SECONDS", "write a number of seconds such as 1 or 0.5"},
                                   {"sort", "COLUMN", "write guest, operations or another column"},
                                   {"once", "BOOL", "leave the value out", "true"}}}};
  return *groups;
}

std::string TopHelp() {
  return absl::StrCat(
      "Usage: quire top [flags]\n\n",
      "Shows a run, of `quire run` by the same user, as it goes on: what the pool holds, what comes and goes, and a "
      "line\n"
      "a guest. Ends with the run. Where there is no terminal, plain text is printed at each interval.\n\n",
      FlagsHelp(TopFlags()),
      "Keys\n"
      "  s  sorts by the next column    r  the other way round    p  pauses    q  leaves    ?  shows the keys\n\n"
      "Examples\n"
      "  quire top\n"
      "      the only run there is\n"
      "  quire top --once --interval=5 --sort=faults\n"
      "      what happens within five seconds, as text\n\n",
      kExitStatuses);
}

absl::StatusOr<TopOptions> TopOptionsFromFlags() {
  TopOptions options{.socket = "", .once = absl::GetFlag(FLAGS_once)};
  const double interval = absl::GetFlag(FLAGS_interval);
  if (!(interval >= 0.1 && interval <= 3600)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--interval=", interval, " is out of range: write a number of seconds from 0.1 to 3600"));
  }
  options.interval = absl::Seconds(interval);
  const std::optional<TopSort> sort = ParseTopSort(absl::GetFlag(FLAGS_sort));
  if (!sort) {
    return absl::InvalidArgumentError(absl::StrCat("--sort=", absl::GetFlag(FLAGS_sort), " is no column: write ",
                                                   absl::StrJoin(TopSortNames(), ", ")));
  }
  options.sort = *sort;
  const absl::StatusOr<std::string> socket = ChooseSocket(absl::GetFlag(FLAGS_socket), RunningSockets());
  if (!socket.ok()) return socket.status();
  options.socket = *socket;
  return options;
}

ExitStatus Top(Args args, Console& console) {
  const absl::Status parsed = ParseFlags("quire top", args, TopFlags());
  if (!parsed.ok()) return Fail(parsed, console);
  const absl::StatusOr<TopOptions> options = TopOptionsFromFlags();
  if (!options.ok()) return Fail(options.status(), console);
  const absl::Status shown = RunTop(*options, console.out, console.out_terminal);
  return shown.ok() ? ExitStatus::kAllWell : Fail(shown, console);
}

// ---------------------------------------------------------------------------------------------------------------------
// The version
// ---------------------------------------------------------------------------------------------------------------------

std::string VersionHelp() { return "Usage: quire version\n\nPrints the version.\n"; }

ExitStatus Version(Args args, Console& console) {
  if (absl::Status parsed = ParseFlags("quire version", args, {}); !parsed.ok()) return Fail(parsed, console);
  console.out << "quire " << kVersion << std::endl;
  return ExitStatus::kAllWell;
}

// ---------------------------------------------------------------------------------------------------------------------
// The table of commands
// ---------------------------------------------------------------------------------------------------------------------

struct Command {
  const char* name;
  const char* summary;
  ExitStatus (*run)(Args args, Console& console);
  std::string (*help)();
};
constexpr Command kCommands[] = {
    {"run", "run guests in less memory than they have", Run, RunHelp},
    {"bench", "measure Quire against the host kernel's memory management", Bench, BenchHelp},
    {"doctor", "what this host offers, and how to get what is missing", Doctor, DoctorHelp},
    {"zones", "the small objects in the pool, from a run's report", Zones, ZonesHelp},
    {"experiment", "sweep settings by a file, both engines in turn", Experiment, ExperimentText},
    {"report", "a page with charts of an experiment's results", ReportExperiment, ReportHelp},
    {"top", "watch a run: its pool, what comes and goes, its guests", Top, TopHelp},
    {"explain", "why a page of a running guest is or is not in memory, huge, merged", Explain, ExplainHelp},
    {"poison", "have a frame of a run's memory fail, to see what becomes of its guests", Poison, PoisonHelp},
    {"domain-xml", "a running guest as a domain of libvirt's", PrintDomainXml, DomainXmlText},
    {"balloon", "take memory from a guest with a kernel of its own, or give it back", AskBalloon, BalloonHelp},
    {"manage", "divide a libvirt host's memory between its domains, by a policy", Manage, ManageText},
    {"version", "print the version", Version, VersionHelp},
};

const Command* FindCommand(absl::string_view name) {
  for (const Command& command : kCommands) {
    if (name == command.name) return &command;
  }
  return nullptr;
}

std::string Help() {
  std::string text = "Quire runs guests in less memory than they have.\n\nUsage: quire COMMAND [flags]\n\nCommands\n";
  for (const Command& command : kCommands) absl::StrAppendFormat(&text, "  %-10s %s\n", command.name, command.summary);
  absl::StrAppendFormat(&text, "  %-10s %s\n", "help", "this text, or with a command's name all about that command");
  return absl::StrCat(text, "\nStart with `quire run`; `quire run --help` lists its flags and workloads.\n\n",
                      kExitStatuses);
}

absl::Status UnknownCommand(absl::string_view name) {
  std::vector<std::string> names = {"help"};
  for (const Command& command : kCommands) names.push_back(command.name);
  const std::string nearest = Nearest(name, names);
  return absl::InvalidArgumentError(
      absl::StrCat("\"", name, "\" is not a command: ",
                   nearest.empty() ? "`quire help` lists them" : absl::StrCat("did you mean `quire ", nearest, "`?")));
}

ExitStatus PrintHelp(Args args, Console& console) {
  if (args.empty()) {
    console.out << Help() << std::flush;
    return ExitStatus::kAllWell;
  }
  const Command* command = FindCommand(args[0]);
  if (command == nullptr) return Fail(UnknownCommand(args[0]), console);
  console.out << command->help() << std::flush;
  return ExitStatus::kAllWell;
}

}  // namespace

ExitStatus RunCommandLine(Args args, Console& console) {
  if (args.empty()) {
    return Fail(absl::InvalidArgumentError("no command: start with `quire run`, or `quire help` for all of them"),
                console);
  }
  if (args[0] == "help") return PrintHelp(args.subspan(1), console);
  if (args[0] == "--version") return Version({}, console);
  const Command* command = FindCommand(args[0]);
  if (command == nullptr)
    return WantsHelp(args.first(1)) ? PrintHelp({}, console) : Fail(UnknownCommand(args[0]), console);
  if (WantsHelp(args.subspan(1))) return PrintHelp(args.first(1), console);
  return command->run(args.subspan(1), console);
}

}  // namespace quire
