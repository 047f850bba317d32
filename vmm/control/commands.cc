#include "vmm/control/commands.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/units.h"
#include "guest/explain.h"
#include "guest/frames/pool.h"
#include "guest/guest_limits.h"
#include "guest/huge/granularity.h"
#include "guest/memory_manager.h"
#include "guest/page_entry.h"
#include "guest/swap/swap_space.h"
#include "nlohmann/json.hpp"
#include "vmm/control/http.h"
#include "vmm/control/metrics.h"
#include "vmm/control/request.h"
#include "vmm/guest_set.h"
#include "vmm/libvirt/domain/domain_xml.h"
#include "vmm/machine/pc_devices.h"
#include "vmm/machine/pc_machine.h"
#include "vmm/options.h"
#include "vmm/report.h"
#include "vmm/virtio/balloon.h"

namespace quire {
namespace {

using Json = nlohmann::json;

template <class AnyJson>
std::string Line(const AnyJson& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

absl::string_view Name(SwapSpace::SlotFacts::Where where) {
  switch (where) {
    case SwapSpace::SlotFacts::Where::kRecord:
      return "word";
    case SwapSpace::SlotFacts::Where::kPool:
      return "ram";
    case SwapSpace::SlotFacts::Where::kArea:
      return "area";
    case SwapSpace::SlotFacts::Where::kNowhere:
      break;
  }
  return "";
}

Json StoredJson(const SwapSpace::SlotFacts& stored) {
  Json json{{"where", Name(stored.where)}, {"pages", stored.pages}};
  if (!stored.area.empty()) json["area"] = stored.area;
  if (stored.length == 0) return json;
  json["bytes"] = stored.length;
  if (stored.length < kPageSize) json["codec"] = stored.zstd ? "zstd" : "lz4";
  return json;
}

Json ExplanationJson(const std::string& name, const Explanation& e) {
  Json block = Json::object();
  for (int state = 0; state < kPageStates; ++state) {
    const uint64_t pages = e.block_pages[static_cast<size_t>(state)];
    if (pages > 0) block[std::string(Name(static_cast<PageState>(state)))] = pages;
  }
  Json json{{"id", e.guest},
            {"guest", name},
            {"gfn", e.gfn.value()},
            {"state", Name(e.state)},
            {"zero", e.zero},
            {"block", BlockOf(e.gfn).value()},
            {"block_whole", e.whole},
            {"block_pages", block},
            {"huge_refused", e.huge_refused},
            {"merge_refused", e.merge_refused},
            {"merge_skipped_passes", e.skipped_passes},
            {"title", absl::StrCat("Page ", e.gfn.value(), " of ", name)},
            {"sentences", {e.residence, e.huge, e.merging}}};
  if (e.frame.has_value()) json["frame"] = e.frame->value();
  if (e.sharers > 0) json["sharers"] = e.sharers;
  if (e.stored.has_value()) json[e.state == PageState::kSwapped ? "stored" : "kept"] = StoredJson(*e.stored);
  return json;
}

absl::StatusOr<size_t> FindGuest(const GuestSet& set, const std::string& wanted) {
  size_t number = set.guests().size();
  const bool numbered = absl::SimpleAtoi(wanted, &number);
  for (size_t i = 0; i < set.guests().size(); ++i) {
    if (set.guests()[i].name == wanted || (numbered && i == number)) return i;
  }
  return absl::NotFoundError(absl::StrCat("there is no guest ", wanted, ": the run has ", set.guests().front().name,
                                          " to ", set.guests().back().name, ", numbered from 0"));
}

absl::StatusOr<Json> Explained(GuestSet& set, const ControlRequest& request) {
  const absl::StatusOr<size_t> number = FindGuest(set, request.guest);
  if (!number.ok()) return number.status();
  const GuestSet::Guest& guest = set.guests()[*number];
  const absl::StatusOr<Explanation> e = Explain(*set.manager(), *guest.memory, Gfn(*request.gfn));
  if (!e.ok()) return e.status();
  return ExplanationJson(guest.name, *e);
}

absl::string_view Name(MemoryManager::Poisoned::Was was) {
  switch (was) {
    case MemoryManager::Poisoned::Was::kFree:
      return "free";
    case MemoryManager::Poisoned::Was::kPage:
      return "page";
    case MemoryManager::Poisoned::Was::kShared:
      return "shared";
    case MemoryManager::Poisoned::Was::kStored:
      return "stored";
  }
  return "";
}

std::string WhatBecameOf(const MemoryManager::Poisoned& p, const std::vector<std::string>& guests, bool told) {
  const std::string lost = guests.empty() ? "nothing is lost"
                                          : absl::StrCat("lost to ", absl::StrJoin(guests, ", "),
                                                         told ? ", told by a machine check" : ", stopped",
                                                         " when it is touched without giving it up before");
  switch (p.was) {
    case MemoryManager::Poisoned::Was::kFree:
      return "It was free: nothing is lost.";
    case MemoryManager::Poisoned::Was::kPage:
      return absl::StrCat("It held a page that is ", lost, ".");
    case MemoryManager::Poisoned::Was::kShared:
      return absl::StrCat("It was shared; of its pages ", p.recovered.in_pages(),
                          " have another frame of the same content now, and ", p.lost.in_pages(),
                          " are without one: ", lost, ".");
    case MemoryManager::Poisoned::Was::kStored:
      return "It held compressed pages: a guest that needs one of them is stopped.";
  }
  return "";
}

Json PoisonedJson(const GuestSet& set, const MemoryManager::Poisoned& p) {
  std::vector<std::string> guests;
  bool told = false;  // all guests of a run are of one kind
  for (const unsigned id : p.guests) {
    const GuestSet::Guest& guest = set.guests()[id];
    told = guest.memory->lives_with_loss();
    guests.push_back(guest.memory->frozen() ? absl::StrCat("clones of ", guest.name) : guest.name);
  }
  return Json{{"title", absl::StrCat("Frame ", p.frame.value(), " of the pool is never used again")},
              {"frame", p.frame.value()},
              {"was", Name(p.was)},
              {"lost_pages", p.lost.in_pages()},
              {"recovered_pages", p.recovered.in_pages()},
              {"guests", guests},
              {"sentences", {WhatBecameOf(p, guests, told)}}};
}

absl::StatusOr<Json> PoisonedFor(GuestSet& set, const ControlRequest& request) {
  absl::StatusOr<MemoryManager::Poisoned> poisoned;
  if (request.frame.has_value()) {
    poisoned = set.manager()->PoisonFrame(FrameNumber(*request.frame));
  } else {
    const absl::StatusOr<size_t> number = FindGuest(set, request.guest);
    if (!number.ok()) return number.status();
    GuestMemory& memory = *set.guests()[*number].memory;
    if (*request.gfn >= memory.size().in_pages()) {
      return absl::OutOfRangeError(
          absl::StrCat("there is no page ", *request.gfn, ": its memory ends at page ", memory.size().in_pages()));
    }
    poisoned = set.manager()->PoisonPage(memory, Gfn(*request.gfn));
  }
  // What is asked for would be possible of another one.
  if (absl::IsInvalidArgument(poisoned.status())) return absl::FailedPreconditionError(poisoned.status().message());
  if (!poisoned.ok()) return poisoned.status();
  return PoisonedJson(set, *poisoned);
}

// How long a guest's driver may take to answer; a guest that has none never does.
constexpr absl::Duration kStatisticsPatience = absl::Seconds(1);
constexpr absl::Duration kStatisticsPoll = absl::Milliseconds(5);

void AwaitStatistics(Balloon& balloon) {
  const absl::Time asked = absl::Now();
  balloon.RequestStatistics();
  while (balloon.statistics().at < asked && absl::Now() < asked + kStatisticsPatience) absl::SleepFor(kStatisticsPoll);
}

Json StatisticsJson(const Balloon::Statistics& s) {
  Json json = Json::object();
  const auto add = [&](const char* key, std::optional<ByteCount> size) {
    if (size.has_value()) json[key] = size->in_bytes();
  };
  add("free_bytes", s.free);
  add("available_bytes", s.available);
  add("total_bytes", s.total);
  add("cache_bytes", s.caches);
  if (s.major_faults.has_value()) json["major_faults"] = *s.major_faults;
  if (s.minor_faults.has_value()) json["minor_faults"] = *s.minor_faults;
  return json;
}

// What of the pool is in use: as the report of the run has it at its end, where the rest is pool.free_bytes.
ByteCount PoolUsed(MemoryManager& manager) {
  Pool& pool = manager.pool();
  const PageCount charged = pool.budget().charged();
  return (charged - std::min(charged, pool.arena().counts().free)).bytes();
}

Json BalloonJson(const std::string& name, const Balloon& balloon, MemoryManager& manager) {
  const Balloon::Statistics statistics = balloon.statistics();
  const std::string memory =
      statistics.available.has_value() && statistics.total.has_value()
          ? absl::StrFormat("Of the %.0f MiB that the guest has left, %.0f MiB are available.",
                            statistics.total->in_mib(), statistics.available->in_mib())
          : "The guest has told nothing of its memory: it has no driver for the balloon, or had no time.";
  const ByteCount used = PoolUsed(manager), limit = manager.pool().budget().limit().bytes();
  return Json{{"title", absl::StrCat("Balloon of ", name)},
              {"guest", name},
              {"target_bytes", balloon.target().in_bytes()},
              {"actual_bytes", balloon.actual().in_bytes()},
              {"reported_bytes", PageCount(balloon.counters().reported.value()).in_bytes()},
              {"statistics", StatisticsJson(statistics)},
              {"pool_used_bytes", used.in_bytes()},
              {"pool_peak_bytes", manager.pool().budget().peak().bytes().in_bytes()},
              {"pool_limit_bytes", limit.in_bytes()},
              {"sentences",
               {absl::StrFormat("It has %.0f MiB and is to have %.0f MiB.", balloon.actual().bytes().in_mib(),
                                balloon.target().bytes().in_mib()),
                memory, absl::StrFormat("Of the pool, %.0f of %.0f MiB are in use.", used.in_mib(), limit.in_mib())}}};
}

// --- One guest.

template <typename... Args>
absl::Status Bad(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat(args...));
}

template <typename... Args>
absl::Status Impossible(const Args&... args) {
  return absl::FailedPreconditionError(absl::StrCat(args...));
}

absl::Status NotOurs() {
  return Impossible("the host kernel has the guests' memory (--engine=kernel), and tells nothing");
}

absl::Status CheckBalloon(const GuestSet::Guest& guest) {
  if (guest.pc == nullptr) return Impossible(guest.name, " has no balloon: only guests of --kernel have one");
  if (guest.pc->devices().balloon().offer().exists) return absl::OkStatus();
  return Impossible(guest.name, " has no balloon: its domain says <memballoon model='none'/>");
}

absl::StatusOr<HttpAnswer> GuestAnswer(const ControlledRun& run, size_t number, bool fresh_statistics) {
  const GuestSet::Guest& guest = run.set.guests()[number];
  if (fresh_statistics) {
    if (absl::Status status = CheckBalloon(guest); !status.ok()) return status;
    AwaitStatistics(guest.pc->devices().balloon());
  }
  nlohmann::ordered_json json = nlohmann::ordered_json::parse(ToJson(run.guests()[number]));
  if (guest.pc != nullptr && guest.memory != nullptr) {
    json["balloon"] = BalloonJson(guest.name, guest.pc->devices().balloon(), *run.set.manager());
  }
  return HttpAnswer{.body = Line(json)};
}

std::string ProgramOf(const RunOptions& options, const GuestSet::Guest& guest) {
  if (options.pc) return options.pc->own_initramfs ? "--kernel=auto" : "";
  if (options.payload) return absl::StrCat("--payload=", *options.payload);
  return absl::StrCat("--workload=", options.Groups()[guest.group].workload);
}

absl::StatusOr<HttpAnswer> GuestXml(const ControlledRun& run, size_t number) {
  const GuestSet::Guest& guest = run.set.guests()[number];
  RunningGuest running{.number = static_cast<int>(number),
                       .name = guest.name,
                       .memory = guest.size,
                       .vcpus = guest.machine->vcpus(),
                       .emulated = run.options.accel == Accel::kSoft,
                       .pc = run.options.pc ? &*run.options.pc : nullptr,
                       .command_line = run.options.Groups()[guest.group].command_line,
                       .runs = ProgramOf(run.options, guest)};
  if (guest.pc != nullptr) running.balloon = guest.pc->devices().balloon().actual().bytes();
  if (guest.memory != nullptr) {
    const GuestLimits limits = guest.memory->limits();
    if (limits.frames > PageCount()) running.pool_limit = limits.frames.bytes();
    if (limits.swapped > PageCount()) running.swap_limit = limits.swapped.bytes();
    running.shares_pages = run.set.manager()->merges();
  }
  absl::StatusOr<std::string> xml = DomainXml(running);
  if (!xml.ok()) return xml.status();
  return HttpAnswer{.content_type = "application/xml", .body = *std::move(xml)};
}

absl::Status CheckNewLimit(absl::string_view key, uint64_t bytes, uint64_t least) {
  if (bytes == 0) return absl::OkStatus();
  const std::string none = ", or 0 for no limit";
  if (bytes < least) return Bad(key, "=", bytes, " is less than a guest can run in: write ", least, " or more", none);
  if (bytes % kPageSize == 0) return absl::OkStatus();
  return Bad(key, "=", bytes, " is not a multiple of the page size, ", kPageSize, ": write ",
             bytes / kPageSize * kPageSize, none);
}

// All of it, before anything is changed.
absl::Status CheckChange(const ControlledRun& run, const GuestSet::Guest& guest, const ControlRequest& request) {
  if (guest.machine->finished() && !guest.memory->frozen())
    return Impossible(guest.name, " has ended: nothing of it can change");
  if (request.balloon_bytes.has_value()) {
    if (absl::Status status = CheckBalloon(guest); !status.ok()) return status;
    const uint64_t all = guest.memory->size().in_bytes();
    if (*request.balloon_bytes >= all) {
      return Bad("a balloon of ", *request.balloon_bytes, " bytes would leave nothing of the ", all, " that ",
                 guest.name, " has: write less");
    }
  }
  const uint64_t pool = request.pool_limit_bytes.value_or(guest.memory->limits().frames.in_bytes());
  const bool limits = request.pool_limit_bytes.has_value() || request.swap_limit_bytes.has_value();
  if (!limits) return absl::OkStatus();
  if (run.options.overcommit == Overcommit::kStrict) {
    return Impossible("guests were promised memory with the limits that they have (--overcommit=strict), which stay");
  }
  const absl::Status of_pool = CheckNewLimit("pool_limit_bytes", pool, GuestLimits::kLeast.in_bytes());
  if (!of_pool.ok()) return of_pool;
  const absl::Status of_swap = CheckNewLimit("swap_limit_bytes", request.swap_limit_bytes.value_or(0), 0);
  if (!of_swap.ok()) return of_swap;
  return guest.memory->CheckNewLimits(PageCount(pool / kPageSize));
}

absl::StatusOr<HttpAnswer> Changed(const ControlledRun& run, size_t number, const ControlRequest& request) {
  const GuestSet::Guest& guest = run.set.guests()[number];
  if (run.set.manager() == nullptr) return NotOurs();
  if (absl::Status status = CheckChange(run, guest, request); !status.ok()) return status;
  const GuestLimits now = guest.memory->limits();
  const auto pages = [](std::optional<uint64_t> bytes, PageCount otherwise) {
    return bytes.has_value() ? PageCount(*bytes / kPageSize) : otherwise;
  };
  // It may wire more in this moment: then nothing has been changed yet.
  const absl::Status limited = guest.memory->SetLimits(pages(request.pool_limit_bytes, now.frames),
                                                       pages(request.swap_limit_bytes, now.swapped));
  if (!limited.ok()) return limited;
  if (request.balloon_bytes.has_value()) {
    guest.pc->devices().balloon().SetTarget(PageCount(*request.balloon_bytes / kPageSize));
  }
  return GuestAnswer(run, number, request.balloon_bytes.has_value());
}

// --- Policies.

BlockPolicy PolicyOf(Huge huge) {
  switch (huge) {
    case Huge::kNever:
      return BlockPolicy::kNever;
    case Huge::kAdvise:
      return BlockPolicy::kAdvised;
    case Huge::kAlways:
      break;
  }
  return BlockPolicy::kAlways;
}

absl::StatusOr<HttpAnswer> Policies(const ControlledRun& run, const ControlRequest& request) {
  MemoryManager* const manager = run.set.manager();
  if (manager == nullptr) return NotOurs();
  if (request.merge.has_value()) manager->SetMerging(*request.merge == Merge::kOn);
  if (request.huge.has_value()) manager->SetBlockPolicy(PolicyOf(*request.huge));
  return HttpAnswer{.body = ToJson(PoliciesOf(*manager))};
}

// --- All of them.

absl::StatusOr<HttpAnswer> JsonAnswer(const absl::StatusOr<Json>& json) {
  if (!json.ok()) return json.status();
  return HttpAnswer{.body = Line(*json)};
}

absl::StatusOr<HttpAnswer> Do(const ControlledRun& run, const ControlRequest& request) {
  using Command = ControlRequest::Command;
  switch (request.command) {
    case Command::kReport:
      return HttpAnswer{.body = ToJson(run.report())};
    case Command::kMetrics:
      return HttpAnswer{.content_type = kMetricsType, .body = MetricsText(run.report())};
    case Command::kGuests:
      return HttpAnswer{.body = ToJson(run.guests())};
    case Command::kPolicies:
    case Command::kChangePolicies:
      return Policies(run, request);
    case Command::kExplain:
      return run.set.manager() == nullptr ? NotOurs() : JsonAnswer(Explained(run.set, request));
    case Command::kPoison:
      return run.set.manager() == nullptr ? NotOurs() : JsonAnswer(PoisonedFor(run.set, request));
    case Command::kGuest:
    case Command::kGuestXml:
    case Command::kChangeGuest:
      break;
  }
  const absl::StatusOr<size_t> number = FindGuest(run.set, request.guest);
  if (!number.ok()) return number.status();
  if (request.command == Command::kChangeGuest) return Changed(run, *number, request);
  if (request.command == Command::kGuestXml) return GuestXml(run, *number);
  return GuestAnswer(run, *number, request.fresh_statistics);
}

int StatusOf(const absl::Status& error) {
  switch (error.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return 400;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kUnimplemented:
      return 405;
    case absl::StatusCode::kFailedPrecondition:
      return 409;
    case absl::StatusCode::kUnavailable:
      return 503;
    default:
      return 500;
  }
}

}  // namespace

PoliciesReport PoliciesOf(const MemoryManager& manager) {
  const BlockPolicy policy = manager.block_policy();
  return {.merge = manager.merges() ? Merge::kOn : Merge::kOff,
          .huge = policy == BlockPolicy::kNever     ? Huge::kNever
                  : policy == BlockPolicy::kAdvised ? Huge::kAdvise
                                                    : Huge::kAlways};
}

HttpAnswer AnswerRequest(const ControlledRun& run, const HttpRequest& http) {
  const absl::StatusOr<ControlRequest> request = ParseRequest(http);
  absl::StatusOr<HttpAnswer> answer = request.ok() ? Do(run, *request) : request.status();
  if (answer.ok()) return *std::move(answer);
  const int status = StatusOf(answer.status());
  return {.status = status,
          .body = Line(Json{{"error", answer.status().message()}}),
          .allow = status == 405 ? AllowedMethods(http.target) : ""};
}

}  // namespace quire
