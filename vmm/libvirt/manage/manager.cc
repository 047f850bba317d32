#include "vmm/libvirt/manage/manager.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "vmm/baseline/host_settings.h"
#include "vmm/baseline/setting.h"
#include "vmm/interrupt.h"
#include "vmm/libvirt/manage/controller.h"
#include "vmm/libvirt/manage/host_view.h"
#include "vmm/libvirt/manage/observation.h"
#include "vmm/libvirt/manage/originals.h"
#include "vmm/text.h"

namespace quire {
namespace {

using DomainSet = LibvirtConnection::DomainSet;

// Attempts to connect again: the first, and the longest, pause between two.
constexpr absl::Duration kFirstPause = absl::Seconds(1), kLongestPause = absl::Seconds(30);
// For how long a host that is not there is awaited when all is to be put back.
constexpr absl::Duration kLastPatience = absl::Seconds(10);
// How soon an interrupt is noticed.
constexpr absl::Duration kNap = absl::Milliseconds(100);

uint64_t KiB(ByteCount size) { return size.in_bytes() >> 10; }

class Manager {
 public:
  Manager(const ManageOptions& options, const ManageSeams& seams, std::ostream& out, std::ostream& err)
      : options_(options),
        seams_(seams),
        out_(out),
        err_(err),
        this_host_(IsThisHost(options.uri)),
        host_settings_({.root = seams.root}),
        controller_(options.policy) {}

  absl::Status Run() {
    if (absl::Status status = Begin(); !status.ok()) return status;
    if (options_.undo) return absl::OkStatus();
    const absl::Status status = options_.once ? OneRound() : Rounds();
    const absl::Status end = End();
    return status.ok() ? end : status;
  }

 private:
  bool live() const { return !options_.dry_run; }
  bool ksm() const { return options_.policy.ksm.enabled; }

  absl::Status Begin();
  absl::Status PutBackEarlier();
  absl::Status OneRound();
  absl::Status Rounds();
  absl::Status Round();
  absl::Status End();

  absl::StatusOr<Observation> Look();
  absl::StatusOr<std::optional<DomainObservation>> LookAt(const DomainSummary& domain);
  void Greet(const DomainSummary& domain);
  void Show(const Decisions& decisions);
  absl::Status Carry(const Decisions& decisions, const Observation& seen);
  absl::Status CarryBalloon(const BalloonDecision& decision, const Observation& seen);
  absl::Status CarrySoftLimit(const SoftLimitDecision& decision, const Observation& seen);
  absl::Status CarryKsm(const KsmDecision& decision, const HostKsm& now);
  // Makes a change that `original` undoes. Errors: those of `change`, and of the journal: Internal.
  absl::Status Change(const Original& original, const std::function<absl::Status()>& change);

  bool Reconnect(absl::Duration patience);
  void Rest(absl::Duration time) const;
  void Complain(const std::string& what) { err_ << "quire: " << Sentence(what) << std::endl; }
  // But once for each `key`.
  void ComplainOnce(const std::string& key, const std::string& what) {
    if (complained_.insert(key).second) Complain(what);
  }
  void Say(const std::string& line) {
    out_ << absl::FormatTime("%H:%M:%S  ", seams_.time(), absl::LocalTimeZone()) << line << std::endl;
  }

  const ManageOptions& options_;
  const ManageSeams& seams_;
  std::ostream& out_;
  std::ostream& err_;
  const bool this_host_;
  HostSettings host_settings_;  // while it is open, no other process of this program changes KSM
  std::optional<Originals> originals_;
  std::unique_ptr<LibvirtConnection> connection_;
  Controller controller_;
  std::set<std::pair<std::string, int>> greeted_;  // domains, by UUID and id
  std::set<std::string> complained_;
  std::string host_said_;  // of the host's state, last
};

absl::Status Manager::Begin() {
  // Starts a process, and so comes before the connection, which starts a thread.
  if (live() && ksm() && this_host_ && !options_.undo) {
    if (absl::Status status = host_settings_.Open(); !status.ok()) return status;
  }
  absl::StatusOr<std::unique_ptr<LibvirtConnection>> opened =
      seams_.open(live() ? LibvirtAccess::kReadWrite : LibvirtAccess::kReadOnly);
  if (absl::IsPermissionDenied(opened.status())) {
    return absl::PermissionDeniedError(
        absl::StrCat(opened.status().message(), live() ? "; to manage domains, be root or of the group libvirt, or "
                                                         "only look, with --dry-run"
                                                       : ""));
  }
  if (!opened.ok()) return opened.status();
  connection_ = *std::move(opened);
  if (live()) {
    absl::StatusOr<Originals> originals = Originals::Open(seams_.journals, options_.uri);
    if (!originals.ok()) return originals.status();
    originals_ = *std::move(originals);
    if (!options_.once || options_.undo) {
      if (absl::Status status = PutBackEarlier(); !status.ok()) return status;
    }
  }
  if (options_.undo || !ksm()) return absl::OkStatus();
  const absl::StatusOr<NodeKsm> node = connection_->GetNodeKsm();
  if (node.ok()) return absl::OkStatus();
  return absl::Status(node.status().code(), absl::StrCat("the policy has the host's same-page merging managed ([ksm] "
                                                         "enabled), but ",
                                                         node.status().message()));
}

absl::Status Manager::PutBackEarlier() {
  if (originals_->records().empty()) {
    if (options_.undo) Say("Nothing is to be put back");
    if (options_.undo) originals_->Remove();
    return absl::OkStatus();
  }
  std::vector<std::string> what;
  for (const Original& original : originals_->records()) what.insert(what.begin(), Describe(original));
  const absl::Status status =
      originals_->PutBackAll(*connection_, seams_.root, [&](const std::string& sentence) { Complain(sentence); });
  if (!status.ok()) return status;
  Say(absl::StrCat("Put back what process ", originals_->left_by(), " had left changed: ", absl::StrJoin(what, ", ")));
  if (options_.undo) originals_->Remove();
  return absl::OkStatus();
}

absl::Status Manager::OneRound() {
  // Rates, and statistics that nobody has asked for until now, take two looks.
  const absl::StatusOr<Observation> first = Look();
  if (!first.ok()) return first.status();
  controller_.Decide(*first, seams_.clock->Now());
  Rest(options_.policy.interval);
  if (seams_.interrupted()) return absl::OkStatus();
  return Round();
}

absl::Status Manager::Rounds() {
  Say(absl::StrCat(live() ? "Managing " : "Looking at ", options_.uri, ", every ",
                   absl::FormatDuration(options_.policy.interval), "; Ctrl-C ends it",
                   live() ? " and puts everything back" : ""));
  while (!seams_.interrupted()) {
    const absl::Status status = Round();
    if (absl::IsUnavailable(status)) {
      Complain(absl::StrCat("the connection to ", options_.uri,
                            " is lost, and is tried again until it is back: ", status.message()));
      connection_.reset();
      if (seams_.interrupted()) return absl::OkStatus();
      const MonotonicTime lost = seams_.clock->Now();
      if (!Reconnect(absl::InfiniteDuration())) return absl::OkStatus();
      Say(absl::StrCat("Connected again after ",
                       absl::FormatDuration(absl::Trunc(seams_.clock->Now() - lost, absl::Seconds(1)))));
      continue;
    }
    if (!status.ok()) return status;
    Rest(options_.policy.interval);
  }
  return absl::OkStatus();
}

absl::Status Manager::Round() {
  const absl::StatusOr<Observation> seen = Look();
  if (!seen.ok()) return seen.status();
  const Decisions decisions = controller_.Decide(*seen, seams_.clock->Now());
  Show(decisions);
  return live() ? Carry(decisions, *seen) : absl::OkStatus();
}

absl::Status Manager::End() {
  if (!live()) return absl::OkStatus();
  if (options_.once) {
    if (originals_->records().empty()) {
      originals_->Remove();
    } else {
      Say(absl::StrCat("What was changed stays; `quire manage --undo --connect=", options_.uri, "` puts it back"));
    }
    return absl::OkStatus();
  }
  // The journal stays, for the next process.
  const std::string left = absl::StrCat(
      "not everything could be put back: what is left is done by the next `quire "
      "manage` for ",
      options_.uri, ", or by `quire manage --undo`");
  if (connection_ == nullptr && !Reconnect(kLastPatience)) return absl::UnavailableError(left);
  const size_t count = originals_->records().size();
  if (!originals_->PutBackAll(*connection_, seams_.root, [&](const std::string& what) { Complain(what); }).ok()) {
    return absl::UnavailableError(left);
  }
  originals_->Remove();
  if (count > 0) Say(absl::StrCat("Put back: ", Plural(count, "setting")));
  return absl::OkStatus();
}

// ---------------------------------------------------------------------------------------------------------------------
// Looking
// ---------------------------------------------------------------------------------------------------------------------

absl::StatusOr<Observation> Manager::Look() {
  const absl::StatusOr<HostObservation> host = LookAtHost(*connection_, this_host_, ksm(), seams_.root);
  if (!host.ok()) return host.status();
  const absl::StatusOr<std::vector<DomainSummary>> domains = connection_->ListDomains(DomainSet::kActive);
  if (!domains.ok()) return domains.status();
  Observation seen = {.time = seams_.time(), .host = *host};
  for (const DomainSummary& domain : *domains) {
    absl::StatusOr<std::optional<DomainObservation>> one = LookAt(domain);
    if (!one.ok()) return one.status();
    if (one->has_value()) seen.domains.push_back(**std::move(one));
  }
  if (originals_) originals_->Keep(*domains);
  return seen;
}

// Nothing: it is not there any more. Error: Unavailable.
absl::StatusOr<std::optional<DomainObservation>> Manager::LookAt(const DomainSummary& domain) {
  if (domain.state == DomainState::kShuttingDown || domain.state == DomainState::kCrashed) return std::nullopt;
  if (greeted_.emplace(domain.uuid, *domain.id).second) Greet(domain);
  DomainObservation seen = {.uuid = domain.uuid, .name = domain.name, .id = *domain.id};
  const absl::StatusOr<DomainMemory> memory = connection_->GetMemory(domain.uuid);
  if (absl::IsUnavailable(memory.status())) return memory.status();
  if (!memory.ok()) return std::nullopt;
  seen.memory = *memory;
  const absl::StatusOr<DomainMemoryStats> stats = connection_->GetMemoryStats(domain.uuid);
  if (absl::IsUnavailable(stats.status())) return stats.status();
  if (absl::IsNotFound(stats.status()) || absl::IsFailedPrecondition(stats.status())) return std::nullopt;
  if (stats.ok()) {
    seen.stats = *stats;
  } else {
    ComplainOnce(absl::StrCat("stats of ", domain.uuid, domain.id.value_or(0)), std::string(stats.status().message()));
  }
  return seen;
}

// A guest that is not asked for statistics says nothing.
void Manager::Greet(const DomainSummary& domain) {
  if (!live() || !options_.policy.For(domain.name).manage) return;
  const auto wanted = static_cast<int>(std::max<int64_t>(1, absl::ToInt64Seconds(options_.policy.interval)));
  const absl::StatusOr<int> period = connection_->GetMemoryStatsPeriod(domain.uuid);
  if (!period.ok() || (*period > 0 && *period <= wanted)) return;
  const Original original = {.kind = Original::Kind::kStatsPeriod,
                             .domain = domain.uuid,
                             .id = *domain.id,
                             .name = domain.name,
                             .value = static_cast<uint64_t>(*period)};
  const absl::Status set = Change(original, [&] { return connection_->SetMemoryStatsPeriod(domain.uuid, wanted); });
  if (!set.ok()) Complain(absl::StrCat(domain.name, " is not asked for statistics: ", set.message()));
}

void Manager::Show(const Decisions& decisions) {
  // Figures change all the time; states are worth a line.
  const std::string state = decisions.host.substr(0, decisions.host.find(':'));
  if (state != host_said_ || options_.once) Say(absl::StrCat("T", Sentence(decisions.host).substr(1)));
  host_said_ = state;
  for (const std::string& note : decisions.notes) Say(note);
  if (options_.once || !live()) {
    out_ << absl::StrFormat("          %-20s %7s %11s %11s %23s\n", "domain", "shares", "memory", "working set",
                            "bounds");
    for (const DomainView& domain : decisions.domains) {
      out_ << absl::StrFormat("          %-20s %7.0f %11s %11s %23s%s\n", domain.name, domain.shares,
                              FormatSize(domain.current),
                              domain.working_set ? FormatSize(*domain.working_set) : "not known",
                              absl::StrCat(FormatSize(domain.least), " to ", FormatSize(domain.most)),
                              domain.left_alone.empty() ? "" : absl::StrCat("  left alone: ", domain.left_alone));
    }
    if (decisions.balloons.empty()) out_ << "          no domain's memory is to be changed\n";
  }
  const char* const would = live() ? "" : "would change: ";
  for (const BalloonDecision& d : decisions.balloons) {
    Say(absl::StrCat(would, d.name, "  memory ", FormatSize(d.from), " -> ", FormatSize(d.to), ": ", d.why));
  }
  for (const SoftLimitDecision& d : decisions.soft_limits) {
    Say(absl::StrCat(would, d.name, "  soft limit ", d.to ? FormatSize(*d.to) : "as it was", ": ", d.why));
  }
  if (decisions.ksm) {
    const KsmDecision& d = *decisions.ksm;
    std::vector<std::string> what;
    if (d.run) what.push_back(*d.run ? "on" : "off");
    if (d.pages_to_scan) what.push_back(absl::StrCat(*d.pages_to_scan, " pages at a time"));
    if (d.sleep_millisecs) what.push_back(absl::StrCat("every ", *d.sleep_millisecs, " ms"));
    Say(absl::StrCat(would, "the host  KSM ", absl::StrJoin(what, ", "), ": ", d.why));
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Changing
// ---------------------------------------------------------------------------------------------------------------------

absl::Status Manager::Change(const Original& original, const std::function<absl::Status()>& change) {
  const size_t before = originals_->records().size();
  if (absl::Status status = originals_->Remember(original); !status.ok()) {
    return absl::InternalError(absl::StrCat("nothing is changed that could not be put back: ", status.message()));
  }
  absl::Status changed = change();
  // Who is not there any more may have made the change.
  if (!changed.ok() && !absl::IsUnavailable(changed) && originals_->records().size() > before) {
    originals_->Forget(original);
  }
  return changed;
}

absl::Status Manager::Carry(const Decisions& decisions, const Observation& seen) {
  for (const BalloonDecision& decision : decisions.balloons) {
    if (absl::Status status = CarryBalloon(decision, seen); !status.ok()) return status;
  }
  for (const SoftLimitDecision& decision : decisions.soft_limits) {
    if (absl::Status status = CarrySoftLimit(decision, seen); !status.ok()) return status;
  }
  if (!decisions.ksm) return absl::OkStatus();
  return CarryKsm(*decisions.ksm, *seen.host.ksm);
}

const DomainObservation& Of(const std::string& uuid, const Observation& seen) {
  return *std::find_if(seen.domains.begin(), seen.domains.end(), [&](const auto& d) { return d.uuid == uuid; });
}

absl::Status Manager::CarryBalloon(const BalloonDecision& decision, const Observation& seen) {
  const DomainObservation& domain = Of(decision.uuid, seen);
  const Original original = {.kind = Original::Kind::kBalloon,
                             .domain = domain.uuid,
                             .id = domain.id,
                             .name = domain.name,
                             .value = KiB(domain.memory.current)};
  const absl::Status set = Change(original, [&] { return connection_->SetMemory(decision.uuid, decision.to); });
  if (set.ok()) controller_.BalloonIsSet(decision.uuid, decision.to, seams_.clock->Now());
  if (absl::IsUnavailable(set)) return set;
  // A domain that has just ended is no trouble; one that was busy is asked again.
  if (set.ok() || absl::IsNotFound(set) || absl::IsFailedPrecondition(set) || absl::IsDeadlineExceeded(set)) {
    return absl::OkStatus();
  }
  controller_.BalloonIsRefused(decision.uuid);
  Complain(absl::StrCat(decision.name, " is left alone from now on: ", set.message()));
  return absl::OkStatus();
}

absl::Status Manager::CarrySoftLimit(const SoftLimitDecision& decision, const Observation& seen) {
  const DomainObservation& domain = Of(decision.uuid, seen);
  const absl::StatusOr<MemoryTune> now = connection_->GetMemoryTune(decision.uuid);
  absl::Status set = now.status();
  if (now.ok() && decision.to) {
    const Original original = {.kind = Original::Kind::kSoftLimit,
                               .domain = domain.uuid,
                               .id = domain.id,
                               .name = domain.name,
                               .value = KiB(now->soft_limit.value_or(ByteCount()))};
    set = Change(original, [&] { return connection_->SetMemoryTune(decision.uuid, {.soft_limit = decision.to}); });
  } else if (now.ok()) {
    const Original* const was = originals_->Find(Original::Kind::kSoftLimit, decision.uuid, domain.id);
    if (was != nullptr) set = PutBack(*was, *connection_, seams_.root);
  }
  if (set.ok()) controller_.SoftLimitIsSet(decision.uuid, decision.to);
  if (absl::IsUnavailable(set)) return set;
  if (set.ok() || absl::IsNotFound(set)) return absl::OkStatus();
  controller_.SoftLimitIsRefused(decision.uuid);
  Complain(absl::StrCat(decision.name, " gets no soft limit: ", set.message()));
  return absl::OkStatus();
}

absl::Status Manager::CarryKsm(const KsmDecision& decision, const HostKsm& now) {
  absl::Status set;
  if (decision.pages_to_scan) {
    set = Change({.kind = Original::Kind::kKsmPages, .value = now.pages_to_scan},
                 [&] { return connection_->SetNodeKsm({.pages_to_scan = decision.pages_to_scan}); });
  }
  if (set.ok() && decision.sleep_millisecs) {
    set = Change({.kind = Original::Kind::kKsmSleep, .value = now.sleep_millisecs},
                 [&] { return connection_->SetNodeKsm({.sleep_millisecs = decision.sleep_millisecs}); });
  }
  if (set.ok() && decision.run) {
    // Libvirt has no call for it.
    set = Change({.kind = Original::Kind::kKsmRun, .value = *now.run},
                 [&] { return WriteSetting(absl::StrCat(seams_.root, kKsmRun), *decision.run ? "1" : "0"); });
  }
  if (absl::IsUnavailable(set)) return set;
  if (set.ok()) return absl::OkStatus();
  return absl::Status(set.code(), absl::StrCat("the policy has the host's same-page merging managed ([ksm] enabled), "
                                               "which this connection may not: ",
                                               set.message()));
}

// ---------------------------------------------------------------------------------------------------------------------
// Waiting
// ---------------------------------------------------------------------------------------------------------------------

// False: it was interrupted. With an end to its patience it is the end itself, and goes on until that is over: false
// too.
bool Manager::Reconnect(absl::Duration patience) {
  const MonotonicTime begin = seams_.clock->Now();
  const bool ending = patience != absl::InfiniteDuration();
  absl::Duration pause = kFirstPause;
  while (ending ? seams_.clock->Now() - begin < patience : !seams_.interrupted()) {
    absl::StatusOr<std::unique_ptr<LibvirtConnection>> opened =
        seams_.open(live() ? LibvirtAccess::kReadWrite : LibvirtAccess::kReadOnly);
    if (opened.ok()) {
      connection_ = *std::move(opened);
      return true;
    }
    if (ending) {
      seams_.sleep(kFirstPause);
    } else {
      Rest(pause);
    }
    pause = std::min(pause * 2, kLongestPause);
  }
  return false;
}

void Manager::Rest(absl::Duration time) const {
  const MonotonicTime begin = seams_.clock->Now();
  while (!seams_.interrupted() && seams_.clock->Now() - begin < time) {
    seams_.sleep(std::min(kNap, time - (seams_.clock->Now() - begin)));
  }
}

// Where this user's journals are.
std::string JournalDirectory() {
  if (geteuid() == 0) return "/run/quire";
  const char* const runtime = std::getenv("XDG_RUNTIME_DIR");
  return runtime == nullptr ? absl::StrCat("/tmp/quire-", geteuid()) : absl::StrCat(runtime, "/quire");
}

}  // namespace

ManageSeams RealManageSeams(const std::string& uri) {
  return {.open = [uri](LibvirtAccess access) { return OpenLibvirt(uri, access); },
          .interrupted = [] { return CaughtInterrupt() != 0; },
          .sleep = [](absl::Duration time) { absl::SleepFor(time); },
          .time = [] { return absl::Now(); },
          .clock = &RealClock(),
          .journals = JournalDirectory()};
}

absl::Status ManageDomains(const ManageOptions& options, const ManageSeams& seams, std::ostream& out,
                           std::ostream& err) {
  return Manager(options, seams, out, err).Run();
}

}  // namespace quire
