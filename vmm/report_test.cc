#include "vmm/report.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace quire {
namespace {

using Json = nlohmann::json;

// A report in which every number is different.
Report Example() {
  Report report;
  report.engine = Engine::kQuire;
  report.accel = Accel::kKvm;
  report.huge_pages = true;
  report.content_ratio = 3.1;
  report.elapsed_seconds = 10.5;
  report.guests = {{.id = 0,
                    .name = "guest-0",
                    .memory_bytes = ByteCount::MiB(256),
                    .vcpus = 2,
                    .operations = 1001,
                    .operations_per_second = 100.5,
                    .verified_pages = 1002,
                    .mismatched_pages = 0,
                    .peak_resident_bytes = ByteCount::KiB(21),
                    .peak_swapped_bytes = ByteCount::KiB(22),
                    .pool_limit_bytes = ByteCount::KiB(23),
                    .swap_limit_bytes = ByteCount::KiB(24),
                    .state = "running",
                    .resident_bytes = ByteCount::KiB(25),
                    .out_bytes = ByteCount::KiB(26),
                    .shared_bytes = ByteCount::KiB(27),
                    .compressed_bytes = ByteCount::KiB(28),
                    .inherited_bytes = ByteCount::KiB(29),
                    .wired_bytes = ByteCount::KiB(30),
                    .faults = 1004,
                    .reclaimed_pages = 1005},
                   {.id = 1,
                    .name = "guest-1",
                    .memory_bytes = ByteCount::MiB(256),
                    .vcpus = 2,
                    .exit = absl::InternalError("triple fault at rip 0x401000"),
                    .operations = 1003}};
  report.pool = {.limit_bytes = ByteCount::MiB(512),
                 .peak_bytes = ByteCount::MiB(511),
                 .resident_bytes = ByteCount::MiB(300),
                 .out_bytes = ByteCount::MiB(20),
                 .shared_bytes = ByteCount::MiB(10),
                 .compressed_bytes = ByteCount::MiB(100),
                 .wired_bytes = ByteCount::MiB(5),
                 .poisoned_bytes = ByteCount::KiB(12),
                 .free_bytes = ByteCount::MiB(77),
                 .metadata_bytes = ByteCount::MiB(3),
                 .wirings_refused = 30};
  report.faults = {.total = 31,
                   .zero_fill = 32,
                   .second_chance = 33,
                   .swap_in = 34,
                   .unshare = 35,
                   .inherited = 30,
                   .huge = 36,
                   .slow = 38,
                   .direct_reclaims = 39,
                   .limit_reclaims = 40,
                   .already_resident = 37,
                   .p50_us = 12.5,
                   .p99_us = 80.25};
  report.swap = {.pages_out = 41,
                 .pages_in = 42,
                 .unchanged_pages = 47,
                 .kept_pages = 48,
                 .stored_pages = 43,
                 .stored_bytes = ByteCount::KiB(44),
                 .same_filled_pages = 45,
                 .deduplicated_pages = 50,
                 .refused_limit = 46,
                 .refused_wired = 49,
                 .tiers = {{.name = "ram",
                            .pages = 43,
                            .bytes = ByteCount::KiB(44),
                            .recompressed = 147,
                            .recompression_saved_bytes = ByteCount::KiB(48)}}};
  report.zones = {{.name = "compressed-1024",
                   .size = ByteCount::Bytes(1024),
                   .limit = 91,
                   .used = 92,
                   .free = 93,
                   .requests = 94,
                   .failures = 95,
                   .frames = 96}};
  report.merge = {.scanned_pages = 51,
                  .skipped_pages = 58,
                  .passes = 59,
                  .merged_pages = 52,
                  .zero_pages = 53,
                  .shared_frames = 54,
                  .saved_bytes = ByteCount::KiB(55),
                  .broken_pages = 56,
                  .refused = {{"mapping_limit", 57}}};
  report.huge = {.blocks_mapped = 61,
                 .whole_faults = 62,
                 .promotions = 63,
                 .prefetched_blocks = 69,
                 .splits = 64,
                 .compactions = 65,
                 .migrated_pages = 67,
                 .unusable_free_index = 68,
                 .fragmentation_index = -1000,
                 .refused = {{"no_block", 66}}};
  report.notifier = {.invalidations = 71,
                     .pages = 72,
                     .retries = 73,
                     .islands_made = 74,
                     .islands_unmade = 75,
                     .views_left = 77,
                     .homes_refused = 76};
  report.clones = {.count = 3,
                   .freeze_seconds = 0.5,
                   .freeze_gib_per_second = 2.5,
                   .clone_seconds_median = 0.25,
                   .clone_seconds_max = 0.75,
                   .pool_bytes_each = ByteCount::KiB(5),
                   .metadata_bytes_each = ByteCount::KiB(6)};
  report.cpu_seconds = {.vcpus = 8.1, .fault = 8.2, .reclaim = 8.3, .swap = 8.4, .merge = 8.5};
  return report;
}

// Every key that the documentation of the report names. People's scripts depend on them: keys may be added to this
// list, never taken from it.
TEST(ReportTest, EveryKeyIsThere) {
  const Json json = Json::parse(ToJson(Example()));
  for (const char* path : {"/version",
                           "/engine",
                           "/accel",
                           "/pages",
                           "/content_ratio",
                           "/elapsed_seconds",
                           "/guests/0/id",
                           "/guests/0/name",
                           "/guests/0/memory_bytes",
                           "/guests/0/vcpus",
                           "/guests/0/exit",
                           "/guests/0/operations",
                           "/guests/0/operations_per_second",
                           "/guests/0/verified_pages",
                           "/guests/0/mismatched_pages",
                           "/guests/0/peak_resident_bytes",
                           "/guests/0/peak_swapped_bytes",
                           "/guests/0/pool_limit_bytes",
                           "/guests/0/swap_limit_bytes",
                           "/guests/0/state",
                           "/guests/0/resident_bytes",
                           "/guests/0/out_bytes",
                           "/guests/0/shared_bytes",
                           "/guests/0/compressed_bytes",
                           "/guests/0/inherited_bytes",
                           "/guests/0/wired_bytes",
                           "/guests/0/faults",
                           "/guests/0/reclaimed_pages",
                           "/policies/merge",
                           "/policies/huge",
                           "/faults/limit_reclaims",
                           "/swap/deduplicated_pages",
                           "/swap/refused_limit",
                           "/swap/refused_wired",
                           "/pool/limit_bytes",
                           "/pool/peak_bytes",
                           "/pool/resident_bytes",
                           "/pool/out_bytes",
                           "/pool/shared_bytes",
                           "/pool/compressed_bytes",
                           "/pool/wired_bytes",
                           "/pool/poisoned_bytes",
                           "/pool/free_bytes",
                           "/pool/metadata_bytes",
                           "/pool/wirings_refused",
                           "/faults/total",
                           "/faults/zero_fill",
                           "/faults/second_chance",
                           "/faults/swap_in",
                           "/faults/unshare",
                           "/faults/huge",
                           "/faults/slow",
                           "/faults/direct_reclaims",
                           "/faults/already_resident",
                           "/faults/p50_us",
                           "/faults/p99_us",
                           "/swap/pages_out",
                           "/swap/pages_in",
                           "/swap/stored_pages",
                           "/swap/stored_bytes",
                           "/swap/same_filled_pages",
                           "/swap/tiers/0/name",
                           "/swap/tiers/0/pages",
                           "/swap/tiers/0/bytes",
                           "/swap/tiers/0/errors",
                           "/swap/tiers/0/recompressed",
                           "/swap/tiers/0/recompression_saved_bytes",
                           "/zones/version",
                           "/zones/zones/0/name",
                           "/zones/zones/0/size",
                           "/zones/zones/0/limit",
                           "/zones/zones/0/used",
                           "/zones/zones/0/free",
                           "/zones/zones/0/requests",
                           "/zones/zones/0/failures",
                           "/zones/zones/0/frames",
                           "/merge/scanned_pages",
                           "/merge/merged_pages",
                           "/merge/zero_pages",
                           "/merge/shared_frames",
                           "/merge/saved_bytes",
                           "/merge/broken_pages",
                           "/merge/refused",
                           "/huge/blocks_mapped",
                           "/huge/whole_faults",
                           "/huge/promotions",
                           "/huge/prefetched_blocks",
                           "/huge/splits",
                           "/huge/compactions",
                           "/huge/migrated_pages",
                           "/huge/unusable_free_index",
                           "/huge/fragmentation_index",
                           "/huge/refused",
                           "/notifier/invalidations",
                           "/notifier/pages",
                           "/notifier/retries",
                           "/notifier/islands_made",
                           "/notifier/islands_unmade",
                           "/notifier/homes_refused",
                           "/cpu_seconds/vcpus",
                           "/cpu_seconds/fault",
                           "/cpu_seconds/reclaim",
                           "/cpu_seconds/swap",
                           "/cpu_seconds/merge"}) {
    EXPECT_TRUE(json.contains(Json::json_pointer(path))) << path;
  }
}

TEST(ReportTest, EveryKeyHasItsOwnMember) {
  const Json json = Json::parse(ToJson(Example()));
  EXPECT_EQ(json["engine"], "quire");
  EXPECT_EQ(json["accel"], "kvm");
  EXPECT_EQ(json["pages"], "huge");
  EXPECT_EQ(json["content_ratio"], 3.1);
  EXPECT_EQ(json["elapsed_seconds"], 10.5);
  EXPECT_EQ(json["guests"][0], Json::parse(R"({"id": 0, "name": "guest-0", "memory_bytes": 268435456, "vcpus": 2,
      "out_of_memory": false, "exit": "ok", "operations": 1001, "operations_per_second": 100.5, "verified_pages": 1002,
      "mismatched_pages": 0, "peak_resident_bytes": 21504, "peak_swapped_bytes": 22528, "pool_limit_bytes": 23552,
      "swap_limit_bytes": 24576, "state": "running", "resident_bytes": 25600, "out_bytes": 26624,
      "shared_bytes": 27648, "compressed_bytes": 28672, "inherited_bytes": 29696, "wired_bytes": 30720,
      "faults": 1004, "reclaimed_pages": 1005})"));
  EXPECT_EQ(json["guests"][1]["exit"], "triple fault at rip 0x401000");
  EXPECT_EQ(json["pool"], Json::parse(R"({"limit_bytes": 536870912, "peak_bytes": 535822336,
      "resident_bytes": 314572800, "out_bytes": 20971520, "shared_bytes": 10485760, "compressed_bytes": 104857600,
      "wired_bytes": 5242880, "poisoned_bytes": 12288, "free_bytes": 80740352, "metadata_bytes": 3145728,
      "wirings_refused": 30})"));
  EXPECT_EQ(json["faults"], Json::parse(R"({"total": 31, "zero_fill": 32, "second_chance": 33, "swap_in": 34,
      "unshare": 35, "inherited": 30, "huge": 36, "slow": 38, "direct_reclaims": 39, "limit_reclaims": 40, "already_resident": 37, "p50_us": 12.5, "p99_us": 80.25})"));
  EXPECT_EQ(
      json["swap"],
      Json::parse(
          R"({"pages_out": 41, "pages_in": 42, "unchanged_pages": 47, "kept_pages": 48, "stored_pages": 43, "stored_bytes": 45056,
      "same_filled_pages": 45, "deduplicated_pages": 50, "refused_limit": 46, "refused_wired": 49, "tiers": [{"name": "ram", "pages": 43, "bytes": 45056, "errors": 0,
      "recompressed": 147, "recompression_saved_bytes": 49152}]})"));
  EXPECT_EQ(json["zones"], Json::parse(R"({"version": 1, "zones": [{"name": "compressed-1024", "size": 1024,
      "limit": 91, "used": 92, "free": 93, "requests": 94, "failures": 95, "frames": 96}]})"));
  EXPECT_EQ(
      json["merge"],
      Json::parse(R"({"scanned_pages": 51, "skipped_pages": 58, "passes": 59, "merged_pages": 52, "zero_pages": 53,
      "shared_frames": 54, "saved_bytes": 56320, "broken_pages": 56, "refused": {"mapping_limit": 57}})"));
  EXPECT_EQ(
      json["huge"],
      Json::parse(R"({"blocks_mapped": 61, "whole_faults": 62, "promotions": 63, "prefetched_blocks": 69, "splits": 64,
      "compactions": 65, "migrated_pages": 67, "unusable_free_index": 68, "fragmentation_index": -1000,
      "refused": {"no_block": 66}})"));
  EXPECT_EQ(json["notifier"], Json::parse(R"({"invalidations": 71, "pages": 72, "retries": 73, "islands_made": 74,
      "islands_unmade": 75, "views_left": 77, "homes_refused": 76})"));
  EXPECT_EQ(json["clones"], Json::parse(R"({"count": 3, "freeze_seconds": 0.5, "freeze_gib_per_second": 2.5,
      "clone_seconds_median": 0.25, "clone_seconds_max": 0.75, "pool_bytes_each": 5120, "metadata_bytes_each": 6144})"));
  EXPECT_EQ(json["cpu_seconds"],
            Json::parse(R"({"vcpus": 8.1, "fault": 8.2, "reclaim": 8.3, "swap": 8.4, "merge": 8.5})"));
}

TEST(ReportTest, WhatIsSwitchedOffIsZeroAndNotMissing) {
  const Json json = Json::parse(ToJson(Report{}));
  EXPECT_EQ(json["pages"], "small");
  EXPECT_EQ(json["guests"], Json::array());
  EXPECT_EQ(json["swap"]["tiers"], Json::array());
  EXPECT_EQ(json["zones"], Json::parse(R"({"version": 1, "zones": []})"));
  EXPECT_EQ(json["merge"]["refused"], Json::object());
  EXPECT_EQ(json["huge"]["refused"], Json::object());
  EXPECT_EQ(json["merge"]["saved_bytes"], 0);
}

TEST(ReportTest, AGuestWithAKernelOfItsOwnHasAStatusIfItEndedWithOne) {
  Report report;
  report.guests = {{.pc = PcReport{.ended = "exit", .exit_status = 0}}, {.pc = PcReport{.ended = "reset"}}};
  const Json json = Json::parse(ToJson(report));
  EXPECT_EQ(json["guests"][0]["ended"], "exit");
  EXPECT_EQ(json["guests"][0]["exit_status"], 0);
  EXPECT_EQ(json["guests"][1]["ended"], "reset");
  EXPECT_FALSE(json["guests"][1].contains("exit_status"));
}

TEST(ReportTest, TextBeginsAsItsReadersExpect) {
  const std::string text = ToJson(Example());
  const std::vector<std::string> lines = absl::StrSplit(text, '\n');
  EXPECT_EQ(lines[0], "{");
  EXPECT_EQ(lines[1], std::string("  \"version\": \"") + kVersion + "\",");
  EXPECT_EQ(lines[2], "  \"engine\": \"quire\",");
  EXPECT_EQ(text.back(), '\n');
}

TEST(ReportTest, BytesThatAreNoTextDoNotEndTheReport) {
  Report report;
  report.guests = {{.exit = absl::InternalError("cannot read \xff\xfe")}};
  EXPECT_TRUE(Json::accept(ToJson(report)));
}

TEST(ReportTest, TheExitStatusIsTheWorstOfTheGuests) {
  const GuestReport good;
  const GuestReport wrong = {.mismatched_pages = 1};
  const GuestReport dead = {.exit = absl::InternalError("triple fault")};
  const GuestReport starved = {.exit = absl::ResourceExhaustedError("the pool is full")};
  const auto status = [](std::vector<GuestReport> guests) { return ToExitStatus(Report{.guests = std::move(guests)}); };
  EXPECT_EQ(status({good, good}), ExitStatus::kAllWell);
  EXPECT_EQ(status({good, wrong}), ExitStatus::kGuestFailed);
  EXPECT_EQ(status({dead, good}), ExitStatus::kGuestFailed);
  EXPECT_EQ(status({starved, good}), ExitStatus::kOutOfMemory);
  EXPECT_EQ(status({starved, wrong}), ExitStatus::kGuestFailed);
}

}  // namespace
}  // namespace quire
