#include "vmm/zones.h"

#include <fstream>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/units.h"
#include "gtest/gtest.h"
#include "vmm/report.h"

namespace quire {
namespace {

Report Example() {
  Report report;
  report.zones = {{.name = "compressed-1024",
                   .size = ByteCount::Bytes(1024),
                   .used = 52,
                   .free = 3,
                   .requests = 8000,
                   .failures = 1,
                   .frames = 14},
                  {.name = "incompressible", .size = ByteCount::Bytes(4096), .limit = 7}};
  return report;
}

TEST(ZonesTest, AReportsZonesAreATableLikeThatOfVmstat) {
  EXPECT_EQ(ZonesTable(ToJson(Example())).value(),
            "ITEM                  SIZE    LIMIT      USED      FREE        REQ     FAIL  SLEEP   FRAMES\n"
            "compressed-1024:      1024,       0,       52,        3,      8000,       1,     0,      14\n"
            "incompressible:       4096,       7,        0,        0,         0,       0,     0,       0\n");
}

TEST(ZonesTest, WithoutZonesThereIsTheHeaderAlone) {
  EXPECT_EQ(ZonesTable(ToJson(Report{})).value().find('\n'), ZonesTable(ToJson(Report{})).value().size() - 1);
}

TEST(ZonesTest, WhatIsNoReportIsRefusedInOneSentence) {
  for (const char* text :
       {"", "{", "[]", "3", "null", "{}", R"({"zones": []})", R"({"zones": {"version": 2, "zones": []}})",
        R"({"zones": {"zones": []}})", R"({"zones": {"version": "1", "zones": []}})", R"({"zones": {"version": 1}})",
        R"({"zones": {"version": 1, "zones": {}}})", R"({"zones": {"version": 1, "zones": [3]}})",
        R"({"zones": {"version": 1, "zones": [{"name": "x"}]}})",
        R"({"zones": {"version": 1, "zones": [{"name": 1, "size": 1, "limit": 0, "used": 0, "free": 0, "requests": 0,
            "failures": 0, "frames": 0}]}})",
        R"({"zones": {"version": 1, "zones": [{"name": "x", "size": -1, "limit": 0, "used": 0, "free": 0,
            "requests": 0, "failures": 0, "frames": 0}]}})"}) {
    const absl::Status status = ZonesTable(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_TRUE(absl::StrContains(status.message(), "quire run --json=FILE")) << status;
  }
}

TEST(ZonesTest, KeysOfALaterQuireDoNoHarm) {
  EXPECT_TRUE(ZonesTable(R"({"zones": {"version": 1, "more": 1, "zones": [{"name": "x", "size": 1, "limit": 0,
      "used": 0, "free": 0, "requests": 0, "failures": 0, "frames": 0, "sleeps": 1}]}})")
                  .ok());
}

TEST(ZonesTest, AReportIsReadFromItsFile) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/zones_test_report");
  std::ofstream(path) << "{}\n";
  EXPECT_EQ(ReadReport(path).value(), "{}\n");
  std::ofstream(path) << "";
  for (const std::string& bad : {path, path + ".none", ::testing::TempDir()}) {
    EXPECT_EQ(ReadReport(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

}  // namespace
}  // namespace quire
