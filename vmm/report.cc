#include "vmm/report.h"

#include <algorithm>

#include "nlohmann/json.hpp"

namespace quire {
namespace {

// Keeps the keys in the order in which they are written here, which is that of the documentation.
using Json = nlohmann::ordered_json;

uint64_t Bytes(ByteCount size) { return size.in_bytes(); }

Json PcJson(const PcReport& pc) {
  Json json{{"ended", pc.ended}};
  if (pc.exit_status) json["exit_status"] = *pc.exit_status;
  json["console"] = pc.console;
  json["failed_devices"] = pc.failed_devices;
  json["balloon_bytes"] = Bytes(pc.balloon_bytes);
  json["balloon_target_bytes"] = Bytes(pc.balloon_target_bytes);
  json["reported_bytes"] = Bytes(pc.reported_bytes);
  json["machine_checks"] = pc.machine_checks;
  return json;
}

Json GuestJson(const GuestReport& guest) {
  Json json{{"id", guest.id},
            {"name", guest.name},
            {"memory_bytes", Bytes(guest.memory_bytes)},
            {"vcpus", guest.vcpus},
            {"out_of_memory", absl::IsResourceExhausted(guest.exit)},
            {"exit", guest.exit.ok() ? "ok" : std::string(guest.exit.message())},
            {"operations", guest.operations},
            {"operations_per_second", guest.operations_per_second},
            {"verified_pages", guest.verified_pages},
            {"mismatched_pages", guest.mismatched_pages},
            {"peak_resident_bytes", Bytes(guest.peak_resident_bytes)},
            {"peak_swapped_bytes", Bytes(guest.peak_swapped_bytes)},
            {"pool_limit_bytes", Bytes(guest.pool_limit_bytes)},
            {"swap_limit_bytes", Bytes(guest.swap_limit_bytes)},
            {"state", guest.state},
            {"resident_bytes", Bytes(guest.resident_bytes)},
            {"out_bytes", Bytes(guest.out_bytes)},
            {"shared_bytes", Bytes(guest.shared_bytes)},
            {"compressed_bytes", Bytes(guest.compressed_bytes)},
            {"inherited_bytes", Bytes(guest.inherited_bytes)},
            {"wired_bytes", Bytes(guest.wired_bytes)},
            {"faults", guest.faults},
            {"reclaimed_pages", guest.reclaimed_pages}};
  if (guest.pc) json.update(PcJson(*guest.pc));
  return json;
}

Json GuestsJson(const std::vector<GuestReport>& guests) {
  Json all = Json::array();
  for (const GuestReport& guest : guests) all.push_back(GuestJson(guest));
  return all;
}

Json PoolJson(const PoolReport& pool) {
  return Json{{"limit_bytes", Bytes(pool.limit_bytes)},       {"peak_bytes", Bytes(pool.peak_bytes)},
              {"resident_bytes", Bytes(pool.resident_bytes)}, {"out_bytes", Bytes(pool.out_bytes)},
              {"shared_bytes", Bytes(pool.shared_bytes)},     {"compressed_bytes", Bytes(pool.compressed_bytes)},
              {"wired_bytes", Bytes(pool.wired_bytes)},       {"poisoned_bytes", Bytes(pool.poisoned_bytes)},
              {"free_bytes", Bytes(pool.free_bytes)},         {"metadata_bytes", Bytes(pool.metadata_bytes)},
              {"wirings_refused", pool.wirings_refused}};
}

Json FaultsJson(const FaultsReport& faults) {
  return Json{{"total", faults.total},
              {"zero_fill", faults.zero_fill},
              {"second_chance", faults.second_chance},
              {"swap_in", faults.swap_in},
              {"unshare", faults.unshare},
              {"inherited", faults.inherited},
              {"huge", faults.huge},
              {"slow", faults.slow},
              {"direct_reclaims", faults.direct_reclaims},
              {"limit_reclaims", faults.limit_reclaims},
              {"already_resident", faults.already_resident},
              {"p50_us", faults.p50_us},
              {"p99_us", faults.p99_us}};
}

Json SwapJson(const SwapReport& swap) {
  Json tiers = Json::array();
  for (const SwapTierReport& tier : swap.tiers) {
    tiers.push_back(
        Json{{"name", tier.name}, {"pages", tier.pages}, {"bytes", Bytes(tier.bytes)}, {"errors", tier.errors}});
    if (tier.store.empty()) {
      tiers.back()["recompressed"] = tier.recompressed;
      tiers.back()["recompression_saved_bytes"] = Bytes(tier.recompression_saved_bytes);
      continue;
    }
    tiers.back()["store"] = tier.store;
    tiers.back()["limit_bytes"] = Bytes(tier.limit_bytes);
    tiers.back()["written_bytes"] = Bytes(tier.written_bytes);
    tiers.back()["read_bytes"] = Bytes(tier.read_bytes);
  }
  return Json{{"pages_out", swap.pages_out},
              {"pages_in", swap.pages_in},
              {"unchanged_pages", swap.unchanged_pages},
              {"kept_pages", swap.kept_pages},
              {"stored_pages", swap.stored_pages},
              {"stored_bytes", Bytes(swap.stored_bytes)},
              {"same_filled_pages", swap.same_filled_pages},
              {"deduplicated_pages", swap.deduplicated_pages},
              {"refused_limit", swap.refused_limit},
              {"refused_wired", swap.refused_wired},
              {"tiers", tiers}};
}

Json ZonesJson(const std::vector<ZoneReport>& zones) {
  Json all = Json::array();
  for (const ZoneReport& zone : zones) {
    all.push_back(Json{{"name", zone.name},
                       {"size", Bytes(zone.size)},
                       {"limit", zone.limit},
                       {"used", zone.used},
                       {"free", zone.free},
                       {"requests", zone.requests},
                       {"failures", zone.failures},
                       {"frames", zone.frames}});
  }
  return Json{{"version", kZonesVersion}, {"zones", all}};
}

Json RefusedJson(const std::map<std::string, uint64_t>& refused) {
  Json reasons = Json::object();
  for (const auto& [reason, count] : refused) reasons[reason] = count;
  return reasons;
}

Json MergeJson(const MergeReport& merge) {
  return Json{{"scanned_pages", merge.scanned_pages},
              {"skipped_pages", merge.skipped_pages},
              {"passes", merge.passes},
              {"merged_pages", merge.merged_pages},
              {"zero_pages", merge.zero_pages},
              {"shared_frames", merge.shared_frames},
              {"saved_bytes", Bytes(merge.saved_bytes)},
              {"broken_pages", merge.broken_pages},
              {"refused", RefusedJson(merge.refused)}};
}

Json HugeJson(const HugeReport& huge) {
  return Json{{"blocks_mapped", huge.blocks_mapped},
              {"whole_faults", huge.whole_faults},
              {"promotions", huge.promotions},
              {"prefetched_blocks", huge.prefetched_blocks},
              {"splits", huge.splits},
              {"compactions", huge.compactions},
              {"migrated_pages", huge.migrated_pages},
              {"unusable_free_index", huge.unusable_free_index},
              {"fragmentation_index", huge.fragmentation_index},
              {"refused", RefusedJson(huge.refused)}};
}

Json NotifierJson(const NotifierReport& notifier) {
  return Json{{"invalidations", notifier.invalidations},
              {"pages", notifier.pages},
              {"retries", notifier.retries},
              {"islands_made", notifier.islands_made},
              {"islands_unmade", notifier.islands_unmade},
              {"views_left", notifier.views_left},
              {"homes_refused", notifier.homes_refused}};
}

Json ClonesJson(const ClonesReport& clones) {
  return Json{{"count", clones.count},
              {"freeze_seconds", clones.freeze_seconds},
              {"freeze_gib_per_second", clones.freeze_gib_per_second},
              {"clone_seconds_median", clones.clone_seconds_median},
              {"clone_seconds_max", clones.clone_seconds_max},
              {"pool_bytes_each", Bytes(clones.pool_bytes_each)},
              {"metadata_bytes_each", Bytes(clones.metadata_bytes_each)}};
}

Json LatencyJson(const LatencyReport& latency) {
  return Json{{"p50_us", latency.p50_us},
              {"p99_us", latency.p99_us},
              {"bounds_us", latency.bounds_us},
              {"counts", latency.counts}};
}

Json PhasesJson(const std::vector<PhaseReport>& phases) {
  Json json = Json::array();
  for (const PhaseReport& phase : phases) {
    json.push_back({{"name", phase.name},
                    {"begin_seconds", phase.begin_seconds},
                    {"end_seconds", phase.end_seconds},
                    {"measured", phase.measured},
                    {"operations", phase.operations},
                    {"faults", phase.faults},
                    {"cpu_seconds", phase.cpu_seconds},
                    {"guests", phase.guests}});
  }
  return json;
}

Json CpuSecondsJson(const CpuSecondsReport& cpu) {
  return Json{
      {"vcpus", cpu.vcpus}, {"fault", cpu.fault}, {"reclaim", cpu.reclaim}, {"swap", cpu.swap}, {"merge", cpu.merge}};
}

Json PoliciesJson(const PoliciesReport& policies) {
  return Json{{"merge", Name(policies.merge)}, {"huge", Name(policies.huge)}};
}

std::string Line(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n"; }

bool Failed(const GuestReport& guest) {
  return guest.mismatched_pages > 0 || (!guest.exit.ok() && !absl::IsResourceExhausted(guest.exit));
}

}  // namespace

std::string ToJson(const Report& report) {
  Json json{{"version", report.version},
            {"engine", Name(report.engine)},
            {"accel", Name(report.accel)},
            {"pages", report.huge_pages ? "huge" : "small"},
            {"content_ratio", report.content_ratio},
            {"elapsed_seconds", report.elapsed_seconds},
            {"guests", GuestsJson(report.guests)},
            {"pool", PoolJson(report.pool)},
            {"faults", FaultsJson(report.faults)},
            {"swap", SwapJson(report.swap)},
            {"zones", ZonesJson(report.zones)},
            {"merge", MergeJson(report.merge)},
            {"huge", HugeJson(report.huge)},
            {"notifier", NotifierJson(report.notifier)},
            {"clones", ClonesJson(report.clones)},
            {"policies", PoliciesJson(report.policies)},
            {"cpu_seconds", CpuSecondsJson(report.cpu_seconds)},
            {"fault_latency", LatencyJson(report.fault_latency)}};
  if (!report.phases.empty()) {
    json["phases"] = PhasesJson(report.phases);
    json["latency"] = LatencyJson(report.latency);
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string ToJson(const GuestReport& guest) { return Line(GuestJson(guest)); }

std::string ToJson(const std::vector<GuestReport>& guests) { return Line(Json{{"guests", GuestsJson(guests)}}); }

std::string ToJson(const PoliciesReport& policies) { return Line(PoliciesJson(policies)); }

ExitStatus ToExitStatus(const Report& report) {
  const auto stopped = [](const GuestReport& guest) { return !guest.exit.ok(); };
  if (std::any_of(report.guests.begin(), report.guests.end(), Failed)) return ExitStatus::kGuestFailed;
  if (std::any_of(report.guests.begin(), report.guests.end(), stopped)) return ExitStatus::kOutOfMemory;
  return ExitStatus::kAllWell;
}

}  // namespace quire
