#include "vmm/experiment/measured_run.h"

#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/options.h"
#include "vmm/schedule.h"

namespace quire {
namespace {

using Json = nlohmann::json;
using End = RunOutcome::End;
using ::testing::HasSubstr;

// One phase that is measured, after one that is not.
Variant Some(Contender contender = Contender::kQuire) {
  Variant variant;
  variant.contender = contender;
  variant.options.groups = {{.name = "a", .guests = 2, .memory = ByteCount::MiB(16)}};
  variant.options.schedule = Schedule{.phases = {{.name = "warm", .duration = absl::Seconds(1), .measured = false},
                                                 {.name = "run", .duration = absl::Seconds(2)}}};
  return variant;
}

Variant OneByOne(Contender contender = Contender::kQuire) {
  Variant variant = Some(contender);
  variant.options.groups[0].guests = 8;
  variant.options.schedule->phases[1].one_by_one = {.group = 0, .every = absl::Milliseconds(100)};
  return variant;
}

Sample At(double seconds, const std::string& phase, uint64_t guests, uint64_t mib) {
  return {.seconds = seconds,
          .phase = phase,
          .operations = static_cast<uint64_t>(seconds * 100),
          .faults = 3,
          .guests = guests,
          .resident = ByteCount::MiB(mib),
          .shared = ByteCount(),
          .compressed = ByteCount::MiB(2),
          .other = ByteCount(),
          .free = ByteCount::MiB(1),
          .huge = ByteCount::MiB(mib / 2)};
}

Json Guest(const std::string& name) {
  return {{"name", name}, {"exit", "ok"}, {"mismatched_pages", 0}, {"out_of_memory", false}};
}

Json PhaseOf(const std::string& name, double begin, double end, bool measured, int operations) {
  return {{"name", name},
          {"begin_seconds", begin},
          {"end_seconds", end},
          {"measured", measured},
          {"operations", operations},
          {"faults", operations / 10},
          {"cpu_seconds", end - begin},
          {"guests", 2}};
}

Json SomeReport() {
  const Json latency = {{"p50_us", 2.0}, {"p99_us", 9.0}, {"bounds_us", {1.0, 4.0, 16.0}}, {"counts", {1, 5, 2}}};
  return {
      {"engine", "quire"},
      {"guests", {Guest("a-0"), Guest("a-1")}},
      {"phases",
       {PhaseOf("fill", 0, 0.5, false, 0), PhaseOf("warm", 0.5, 1.5, false, 50), PhaseOf("run", 1.5, 3.5, true, 400)}},
      {"latency", latency},
      {"fault_latency", latency},
      {"faults", {{"p50_us", 3.0}, {"p99_us", 30.0}}},
      {"merge", {{"saved_bytes", 4096}}}};
}

RunOutcome Well() {
  return {.timeline = {At(0.2, "fill", 2, 4), At(1, "warm", 2, 40), At(2, "run", 2, 10), At(2.5, "run", 2, 12),
                       At(3, "run", 2, 20)},
          .report = SomeReport(),
          .wall_seconds = 4};
}

TEST(ResultOfTest, ValuesAreOfWhatWasMeasured) {
  const Json result = ResultOf(Some(), Well());
  EXPECT_EQ(result["outcome"], "ok");
  EXPECT_EQ(result["reason"], "");
  EXPECT_EQ(result["wall_seconds"], 4);
  const Json& values = result["values"];
  EXPECT_EQ(values["operations_per_second"], 200);
  EXPECT_EQ(values["faults_per_second"], 20);
  EXPECT_EQ(values["cpu_seconds"], 2);
  EXPECT_EQ(values["guest_memory_bytes"], 32 << 20);
  EXPECT_EQ(values["memory_bytes"], 14 << 20);
  EXPECT_EQ(values["peak_memory_bytes"], 42 << 20);
  EXPECT_EQ(values["huge_share"], 0.5);
  EXPECT_EQ(values["guests_that_ran"], 2);
  EXPECT_EQ(values["latency_p50_us"], 2);
  EXPECT_EQ(values["latency_p99_us"], 9);
  EXPECT_EQ(values["fault_p99_us"], 30);
  EXPECT_EQ(values["saved_bytes"], 4096);
  EXPECT_EQ(values["mismatched_pages"], 0);
  EXPECT_EQ(values["wall_seconds"], 4);
  EXPECT_FALSE(values.contains("guests_that_fit"));
  EXPECT_FALSE(values.contains("tries"));
}

TEST(ResultOfTest, PhasesAndTimelineAndLatenciesAreThere) {
  const Json result = ResultOf(Some(), Well());
  ASSERT_EQ(result["phases"].size(), 3u);
  EXPECT_EQ(result["phases"][2], Json::parse(R"({"name": "run", "begin": 1.5, "end": 3.5, "measured": true,
      "guests": 2, "operations_per_second": 200})"));
  EXPECT_EQ(result["timeline"]["seconds"].size(), 5u);
  EXPECT_EQ(result["timeline"]["resident_bytes"][1], 40 << 20);
  EXPECT_EQ(result["timeline"]["guests"], Json::parse("[2, 2, 2, 2, 2]"));
  // counts[i] lie below us[i]; the last ones below nothing.
  EXPECT_EQ(result["latency"], Json::parse(R"({"us": [1, 4, 16], "counts": [1, 5, 2, 0]})"));
  EXPECT_TRUE(result.contains("fault_latency"));
  EXPECT_EQ(result["report"]["engine"], "quire");
}

TEST(ResultOfTest, WhatAnEngineCannotTellIsNotThere) {
  RunOutcome outcome = Well();
  for (Sample& sample : outcome.timeline) sample.huge.reset();
  outcome.report["engine"] = "kernel";
  // Nothing was counted.
  outcome.report["fault_latency"]["p99_us"] = 0;
  outcome.report["latency"]["p99_us"] = 0;
  outcome.tries = 2;
  const Json result = ResultOf(Some(Contender::kKernel), outcome);
  EXPECT_FALSE(result["timeline"].contains("huge_bytes"));
  for (const char* value : {"faults_per_second", "fault_p50_us", "saved_bytes", "huge_share", "latency_p50_us"}) {
    EXPECT_FALSE(result["values"].contains(value)) << value;
  }
  EXPECT_EQ(result["values"]["operations_per_second"], 200);
  EXPECT_EQ(result["values"]["tries"], 2);
  EXPECT_FALSE(result.contains("latency"));
  EXPECT_FALSE(result.contains("fault_latency"));
}

// Their drivers take a while to come.
TEST(ResultOfTest, WhatGuestsSayOfTheirMemoryIsInTheTimelineFromTheStart) {
  RunOutcome outcome = Well();
  outcome.timeline[2].told.balloon = ByteCount::MiB(3);
  outcome.timeline[4].told.free = ByteCount::MiB(5);
  outcome.timeline[4].rss = ByteCount::MiB(7);
  const Json timeline = ResultOf(Some(Contender::kQemu), outcome)["timeline"];
  EXPECT_EQ(timeline["balloon_bytes"], Json::parse("[0, 0, 3145728, 0, 0]"));
  EXPECT_EQ(timeline["guest_free_bytes"], Json::parse("[0, 0, 0, 0, 5242880]"));
  EXPECT_EQ(timeline["rss_bytes"], Json::parse("[0, 0, 0, 0, 7340032]"));
  EXPECT_FALSE(timeline.contains("guest_total_bytes"));
  EXPECT_FALSE(ResultOf(Some(), Well())["timeline"].contains("balloon_bytes"));
}

// What a run writes to its pipe, the experiment reads.
TEST(RunMessageTest, ASampleIsReadAsItWasWritten) {
  Sample sample = At(1.5, "run", 2, 10);
  sample.filling = 1;
  sample.told = {.balloon = ByteCount::KiB(4), .total = ByteCount::MiB(1), .swapped_out = ByteCount::KiB(8)};
  sample.rss = ByteCount::MiB(9);
  const absl::StatusOr<RunMessage> message = ParseMessage(FormatSample(sample));
  ASSERT_TRUE(message.ok() && message->sample.has_value());
  EXPECT_EQ(FormatSample(*message->sample), FormatSample(sample));
  EXPECT_EQ(message->sample->told.swapped_out, ByteCount::KiB(8));
  EXPECT_FALSE(message->sample->told.free.has_value());
}

TEST(ResultOfTest, ARunThatWasKilledKeepsWhatWasSeenOfIt) {
  RunOutcome outcome = Well();
  outcome.end = End::kKilled;
  outcome.reason = "The host kernel killed the guests for want of memory.";
  outcome.report = nullptr;
  const Json result = ResultOf(Some(Contender::kKernel), outcome);
  EXPECT_EQ(result["outcome"], "killed");
  EXPECT_EQ(result["reason"], "The host kernel killed the guests for want of memory.");
  EXPECT_EQ(result["values"]["peak_memory_bytes"], 42 << 20);
  EXPECT_FALSE(result["values"].contains("operations_per_second"));
  EXPECT_TRUE(result["report"].is_null());
  EXPECT_TRUE(result["phases"].empty());
}

TEST(ResultOfTest, ARunThatFailedAtOnceHasAResultToo) {
  const Json result = ResultOf(Some(), {.end = End::kFailed, .reason = "It could not."});
  EXPECT_EQ(result["outcome"], "failed");
  EXPECT_EQ(result["values"]["guests_that_ran"], 0);
  EXPECT_TRUE(result["timeline"]["seconds"].empty());
}

TEST(ResultOfTest, GuestsThatComeOneByOneFitButForTheOneThatWasTooMuch) {
  RunOutcome outcome;
  for (uint64_t guests = 0; guests < 6; ++guests) {
    outcome.timeline.push_back(At(1 + 0.1 * static_cast<double>(guests), "run", guests, 2 * guests));
  }
  outcome.end = End::kKilled;
  const Json killed = ResultOf(OneByOne(Contender::kKernel), outcome);
  EXPECT_EQ(killed["outcome"], "ok");
  EXPECT_EQ(killed["values"]["guests_that_ran"], 5);
  EXPECT_EQ(killed["values"]["guests_that_fit"], 4);

  outcome.end = End::kOk;
  EXPECT_EQ(ResultOf(OneByOne(), outcome)["values"]["guests_that_fit"], 5);
  outcome.end = End::kFailed;
  EXPECT_EQ(ResultOf(OneByOne(), outcome)["outcome"], "failed");
}

TEST(ResultOfTest, GuestsThatCameWhenTooMuchMemoryWasInUseDoNotFit) {
  RunOutcome outcome;
  for (uint64_t guests = 0; guests < 6; ++guests) {
    outcome.timeline.push_back(At(1 + 0.1 * static_cast<double>(guests), "run", guests, 2 * guests));
    outcome.timeline.back().over_budget = guests > 3;
  }
  outcome.end = End::kKilled;
  const Json killed = ResultOf(OneByOne(Contender::kKernel), outcome);
  EXPECT_EQ(killed["values"]["guests_that_ran"], 5);
  EXPECT_EQ(killed["values"]["guests_that_fit"], 3);
}

// It ran, and was stopped before anybody looked.
TEST(ResultOfTest, AGuestBetweenTwoSamplesCounts) {
  RunOutcome outcome = Well();
  outcome.end = End::kKilled;
  outcome.report["phases"][2]["guests"] = 3;
  EXPECT_EQ(ResultOf(OneByOne(), outcome)["values"]["guests_that_ran"], 3);
  EXPECT_EQ(ResultOf(OneByOne(), outcome)["values"]["guests_that_fit"], 2);
}

TEST(ResultOfTest, NobodyFitsWhereTheFirstIsTooMuch) {
  EXPECT_EQ(ResultOf(OneByOne(), {.end = End::kKilled})["values"]["guests_that_fit"], 0);
}

TEST(ResultOfTest, WhatConsolesSayInNumbersIsAddedUp) {
  RunOutcome outcome = Well();
  outcome.report["guests"][0]["console"] = {{"work", "3"}, {"note", "hello"}, {"rate", "1.5"}};
  outcome.report["guests"][1]["console"] = {{"work", "4"}, {"other", "7"}, {"odd", 3}};
  const Json values = ResultOf(Some(), outcome)["values"];
  EXPECT_EQ(values["console.work"], 7);
  EXPECT_EQ(values["console.rate"], 1.5);
  EXPECT_EQ(values["console.other"], 7);
  EXPECT_FALSE(values.contains("console.note"));
  EXPECT_FALSE(values.contains("console.odd"));
}

// A result is a line of JSON, whose numbers are finite.
TEST(ResultOfTest, WhatIsNoNumberIsNoValue) {
  RunOutcome outcome = Well();
  outcome.report["guests"][0]["console"] = {{"a", "inf"}, {"b", "nan"}, {"c", "1e999"}};
  const Json values = ResultOf(Some(), outcome)["values"];
  for (const auto& [key, value] : values.items()) {
    EXPECT_NE(value.dump(), "null") << key;
  }
}

TEST(SecondsOfTest, IsTheSumOfThePhases) {
  EXPECT_EQ(SecondsOf(Some()), 3);
  EXPECT_EQ(SecondsOf(OneByOne()), 1.8);
}

class RunVariantTest : public testing::Test {
 protected:
  static Variant Soft(const std::string& workload, absl::Duration duration) {
    Variant variant;
    variant.options.accel = Accel::kSoft;
    variant.options.groups = {{.name = "a", .guests = 2, .memory = ByteCount::MiB(8), .workload = workload}};
    variant.options.pool = ByteCount::MiB(32);
    variant.options.schedule = Schedule{.phases = {{.name = "run", .duration = duration}}};
    return variant;
  }
  RunEnvironment Environment() const { return {.accel = Accel::kSoft, .log = log_, .while_running = nullptr}; }

  const std::string log_ = absl::StrCat(testing::TempDir(), "/runs.log");
};

TEST_F(RunVariantTest, GivesAReportAndATimeline) {
  const Variant variant = Soft("zipf:operations=20000", absl::Hours(1));
  const absl::StatusOr<RunOutcome> outcome = RunVariant(variant, 7, Environment());
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(outcome->end, End::kOk) << outcome->reason;
  EXPECT_EQ(outcome->report["guests"].size(), 2u);
  EXPECT_FALSE(outcome->timeline.empty());
  const Json result = ResultOf(variant, *outcome);
  EXPECT_EQ(result["outcome"], "ok");
  EXPECT_EQ(result["phases"][0]["name"], "fill");
  EXPECT_EQ(result["phases"][1]["name"], "run");
  EXPECT_EQ(result["values"]["mismatched_pages"], 0);
}

TEST_F(RunVariantTest, ARunThatCannotStartSaysWhy) {
  Variant variant = Soft("zipf", absl::Seconds(1));
  variant.options.content = "/nonexistent";
  const absl::StatusOr<RunOutcome> outcome = RunVariant(variant, 7, Environment());
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(outcome->end, End::kFailed);
  EXPECT_THAT(outcome->reason, HasSubstr("/nonexistent"));
  EXPECT_TRUE(outcome->report.is_null());
}

TEST_F(RunVariantTest, GuestsThatAreStoppedForWantOfMemoryAreKilled) {
  Variant variant = Soft("zipf", absl::Hours(1));
  variant.options.groups[0].guests = 1;
  variant.options.groups[0].memory = ByteCount::MiB(64);
  variant.options.compressibility = 1;
  const absl::StatusOr<RunOutcome> outcome = RunVariant(variant, 7, Environment());
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(outcome->end, End::kKilled);
  EXPECT_THAT(outcome->reason, HasSubstr("a-"));
  EXPECT_EQ(ResultOf(variant, *outcome)["outcome"], "killed");
}

TEST_F(RunVariantTest, NobodyIsLeftBehind) {
  ASSERT_TRUE(RunVariant(Soft("zipf:operations=1000", absl::Hours(1)), 7, Environment()).ok());
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
}

}  // namespace
}  // namespace quire
