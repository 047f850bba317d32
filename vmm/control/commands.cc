#include "vmm/control/commands.h"

#include <algorithm>
#include <optional>
#include <string>
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
#include "guest/memory_manager.h"
#include "guest/page_entry.h"
#include "guest/swap/swap_space.h"
#include "nlohmann/json.hpp"
#include "vmm/control/request.h"
#include "vmm/machine/pc_devices.h"
#include "vmm/machine/pc_machine.h"
#include "vmm/virtio/balloon.h"

namespace quire {
namespace {

using Json = nlohmann::json;

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

absl::StatusOr<const GuestSet::Guest*> FindGuest(const GuestSet& set, const std::string& wanted) {
  size_t number = set.guests().size();
  const bool numbered = absl::SimpleAtoi(wanted, &number);
  for (size_t i = 0; i < set.guests().size(); ++i) {
    if (set.guests()[i].name == wanted || (numbered && i == number)) return &set.guests()[i];
  }
  return absl::InvalidArgumentError(absl::StrCat("there is no guest ", wanted, ": the run has ",
                                                 set.guests().front().name, " to ", set.guests().back().name,
                                                 ", numbered from 0"));
}

absl::StatusOr<Json> Explained(GuestSet& set, const ControlRequest& request) {
  const absl::StatusOr<const GuestSet::Guest*> guest = FindGuest(set, request.guest);
  if (!guest.ok()) return guest.status();
  const absl::StatusOr<Explanation> e = Explain(*set.manager(), *(*guest)->memory, Gfn(*request.gfn));
  if (!e.ok()) return e.status();
  return ExplanationJson((*guest)->name, *e);
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
    const absl::StatusOr<const GuestSet::Guest*> guest = FindGuest(set, request.guest);
    if (!guest.ok()) return guest.status();
    poisoned = set.manager()->PoisonPage(*(*guest)->memory, Gfn(*request.gfn));
  }
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

absl::StatusOr<Json> Ballooned(GuestSet& set, const ControlRequest& request) {
  const absl::StatusOr<const GuestSet::Guest*> guest = FindGuest(set, request.guest);
  if (!guest.ok()) return guest.status();
  const std::string& name = (*guest)->name;
  if ((*guest)->pc == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(name, " has no balloon: only guests of --kernel have one"));
  }
  if (request.bytes.value_or(0) >= (*guest)->memory->size().in_bytes()) {
    return absl::InvalidArgumentError(absl::StrCat("a balloon of ", *request.bytes,
                                                   " bytes would leave nothing of the ",
                                                   (*guest)->memory->size().in_bytes(), " that ", name, " has"));
  }
  Balloon& balloon = (*guest)->pc->devices().balloon();
  if (request.bytes.has_value()) balloon.SetTarget(PageCount(*request.bytes / kPageSize));
  AwaitStatistics(balloon);
  return BalloonJson(name, balloon, *set.manager());
}

absl::StatusOr<Json> Do(GuestSet& set, absl::string_view line) {
  const absl::StatusOr<ControlRequest> request = ParseRequest(line);
  if (!request.ok()) return request.status();
  if (set.manager() == nullptr) {
    return absl::InvalidArgumentError("the host kernel has the guests' memory (--engine=kernel), and tells nothing");
  }
  switch (request->command) {
    case ControlRequest::Command::kExplain:
      return Explained(set, *request);
    case ControlRequest::Command::kPoison:
      return PoisonedFor(set, *request);
    case ControlRequest::Command::kBalloon:
      break;
  }
  return Ballooned(set, *request);
}

}  // namespace

std::string AnswerRequest(GuestSet& set, absl::string_view request) {
  const absl::StatusOr<Json> answer = Do(set, request);
  const Json json = answer.ok() ? *answer : Json{{"error", answer.status().message()}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace quire
