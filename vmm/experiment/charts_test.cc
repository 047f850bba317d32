#include "vmm/experiment/charts.h"

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/experiment/experiment.h"

namespace quire {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;
using ::testing::StartsWith;

const std::vector<Axis>& Axes() {
  static const auto* axes = new std::vector<Axis>{{.name = "overcommit", .values = {1.0, 2.0}},
                                                  {.name = "engine", .values = {"quire", "kernel"}},
                                                  {.name = "guests.a.count", .values = {4, 8}}};
  return *axes;
}

absl::StatusOr<Json> Read(absl::string_view text, const std::vector<Axis>& axes = Axes()) {
  const absl::StatusOr<ConfigNode> root = ParseToml("f.toml", text);
  EXPECT_TRUE(root.ok()) << root.status();
  return ReadCharts("f.toml", root->Find("charts"), axes);
}

// Of a chart of values that is good but for `more`, which stands in line 4.
std::string Why(absl::string_view more) {
  return std::string(
      Read(absl::StrCat("[[charts]]\nx = \"overcommit\"\ny = \"cpu_seconds\"\n", more, "\n")).status().message());
}

TEST(ChartsTest, AChartIsAsItWasWrittenWithDefaults) {
  const absl::StatusOr<Json> charts = Read(R"(
[[charts]]
title = "T"
x = "overcommit"
y = "latency_p99_us"
series = "engine"
compare = ["quire", "kernel"]
better = "lower"
at = { guests.a.count = 8, engine = "quire" }
[[charts]]
x = "engine"
y = "console.work"
[[charts]]
kind = "latency"
of = "faults"
at = { overcommit = 2 }
[[charts]]
kind = "coverage"
)");
  ASSERT_TRUE(charts.ok()) << charts.status();
  EXPECT_EQ((*charts)[0], Json::parse(R"({"kind": "values", "title": "T", "x": "overcommit", "y": "latency_p99_us",
      "series": "engine", "compare": ["quire", "kernel"], "better": "lower",
      "at": {"guests.a.count": 8, "engine": "quire"}})"));
  EXPECT_EQ((*charts)[1], Json::parse(R"({"kind": "values", "title": "console.work against engine", "x": "engine",
      "y": "console.work", "better": "higher"})"));
  EXPECT_EQ((*charts)[2], Json::parse(R"({"kind": "latency", "of": "faults", "at": {"overcommit": 2}})"));
  EXPECT_EQ((*charts)[3], Json::parse(R"({"kind": "coverage"})"));
}

TEST(ChartsTest, WithoutAnyThereIsOneOfTheThroughput) {
  const absl::StatusOr<Json> both = ReadCharts("f.toml", nullptr, Axes());
  ASSERT_EQ(both->size(), 2u);
  EXPECT_EQ((*both)[0]["x"], "overcommit");
  EXPECT_EQ((*both)[0]["y"], "operations_per_second");
  EXPECT_EQ((*both)[0]["series"], "engine");
  EXPECT_EQ((*both)[0]["compare"], Json::parse(R"(["quire", "kernel"])"));
  EXPECT_EQ((*both)[1]["kind"], "memory");

  const absl::StatusOr<Json> engine = ReadCharts("f.toml", nullptr, {Axes()[1]});
  EXPECT_EQ((*engine)[0]["x"], "engine");
  EXPECT_FALSE((*engine)[0].contains("series"));
  EXPECT_FALSE((*engine)[0].contains("compare"));

  const absl::StatusOr<Json> nothing = ReadCharts("f.toml", nullptr, {});
  ASSERT_EQ(nothing->size(), 1u);
  EXPECT_EQ((*nothing)[0]["kind"], "memory");
}

TEST(ChartsTest, EachValueOfARunCanBeShown) {
  for (const absl::string_view name : ValueNames()) {
    EXPECT_TRUE(Read(absl::StrCat("[[charts]]\nx = \"engine\"\ny = \"", name, "\"\n")).ok()) << name;
  }
}

TEST(ChartsTest, WhatCannotBeShownIsNamedWithItsLineAndWhatCan) {
  EXPECT_THAT(Why("kind = \"pie\""), StartsWith("f.toml:4: there are charts of values, memory, coverage, latency"));
  EXPECT_THAT(Why("series = \"pool\""), StartsWith("f.toml:4: series is to be something that [matrix] sweeps, and pool "
                                                   "is not swept: there are overcommit, engine, guests.a.count"));
  EXPECT_THAT(Why("at = { pool = 3 }"), StartsWith("f.toml:4: pool is not swept by [matrix]"));
  EXPECT_THAT(Why("at = { overcommit = 3 }"), StartsWith("f.toml:4: overcommit never takes the value 3 in [matrix]"));
  EXPECT_THAT(Why("at = { guests.a.count = 5 }"), StartsWith("f.toml:4: guests.a.count never takes the value 5"));
  EXPECT_THAT(Why("at = 3"), HasSubstr("a table"));
  EXPECT_THAT(Why("compare = [\"quire\", \"kernel\"]"), StartsWith("f.toml:4: compare names two values of the series"));
  for (const char* none : {"3", "[]", "[\"quire\"]", "[\"quire\", \"kernel\", \"x\"]", "[[1], [2]]", "{}"}) {
    EXPECT_THAT(Why(absl::StrCat("compare = ", none)), StartsWith("f.toml:4: compare is to be two values")) << none;
  }
  EXPECT_THAT(Why("compare = [\"quire\", \"linux\"]\nseries = \"engine\""),
              StartsWith("f.toml:4: engine never takes the value \"linux\""));
  EXPECT_THAT(Why("compare = [\"quire\", \"quire\"]\nseries = \"engine\""),
              StartsWith("f.toml:4: compare names the same value twice"));
  EXPECT_THAT(Why("better = \"more\""), StartsWith("f.toml:4: better is to be \"higher\" or \"lower\""));
  EXPECT_THAT(Why("of = \"faults\""), StartsWith("f.toml:4: of is for charts of latencies"));
  EXPECT_THAT(Why("title = 3"), HasSubstr("title in [[charts]] is to be text"));
  EXPECT_THAT(Why("colour = \"red\""), StartsWith("f.toml:4: \"colour\" is no key of [[charts]]"));
}

TEST(ChartsTest, AChartOfValuesNeedsTwoAxes) {
  const auto why = [](absl::string_view text) { return std::string(Read(text).status().message()); };
  EXPECT_THAT(why("\n[[charts]]\ny = \"cpu_seconds\"\n"), StartsWith("f.toml:2: a chart of values needs x"));
  EXPECT_THAT(why("\n[[charts]]\nx = \"engine\"\n"), StartsWith("f.toml:2: a chart of values needs y, one of "));
  for (const char* y : {"speed", "console.", ""}) {
    EXPECT_THAT(why(absl::StrCat("\n[[charts]]\nx = \"engine\"\ny = \"", y, "\"\n")), StartsWith("f.toml:4: a chart"));
  }
  EXPECT_THAT(why("[[charts]]\nx = \"speed\"\ny = \"cpu_seconds\"\n"), StartsWith("f.toml:2: x is to be something"));
  EXPECT_THAT(std::string(Read("[[charts]]\nx = \"engine\"\ny = \"cpu_seconds\"\n", {}).status().message()),
              HasSubstr("engine is not swept: nothing is"));
}

}  // namespace
}  // namespace quire
