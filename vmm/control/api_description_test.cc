// docs/openapi.yaml and docs/api.md describe what there is, and nothing else.
#include "vmm/control/testing/api_description.h"

#include <fstream>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "vmm/control/metrics.h"
#include "vmm/control/request.h"
#include "vmm/report.h"

namespace quire {
namespace {

using ::testing::IsEmpty;
using ::testing::UnorderedElementsAreArray;

using Json = nlohmann::json;

// With something in all its parts.
Report FullReport() {
  Report report;
  report.guests = {{.name = "guest-0", .state = "running"}, {.name = "guest-1", .pc = PcReport{.exit_status = 3}}};
  report.swap.tiers = {{.name = "ram"}, {.name = "file", .store = "a file"}};
  report.zones = {{.name = "slots"}};
  report.merge.refused = {{"why", 1}};
  report.huge.refused = {{"why", 1}};
  return report;
}

class ApiDescriptionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    description_ = ApiDescription::Load("docs/openapi.yaml");
    if (!description_.has_value()) GTEST_SKIP() << "nothing reads YAML: apt-get install python3-yaml";
    ASSERT_TRUE(description_->root().is_object());
  }
  std::optional<ApiDescription> description_;
};

TEST_F(ApiDescriptionTest, HasThePathsAndMethodsThatTheServerHas) {
  std::vector<std::pair<std::string, std::string>> routes;
  for (const ControlRoute& route : ControlRoutes()) routes.emplace_back(route.method, route.path);
  EXPECT_THAT(description_->Operations(), UnorderedElementsAreArray(routes));
}

TEST_F(ApiDescriptionTest, HasTheKeysOfTheReport) {
  const Json report = Json::parse(ToJson(FullReport()));
  EXPECT_EQ(description_->Complaints(report, "Report"), "");
  EXPECT_THAT(description_->Missing(report, "Report"), IsEmpty());
  EXPECT_THAT(description_->Missing(report["swap"]["tiers"][0], "Tier"),
              UnorderedElementsAreArray({"store", "limit_bytes", "written_bytes", "read_bytes"}));
  // That of one guest alone has its balloon besides.
  EXPECT_THAT(description_->Missing(report["guests"][1], "Guest"), UnorderedElementsAreArray({"balloon"}));
  for (const auto& [part, schema] : std::vector<std::pair<std::string, std::string>>{{"pool", "Pool"},
                                                                                     {"faults", "Faults"},
                                                                                     {"swap", "Swap"},
                                                                                     {"zones", "Zones"},
                                                                                     {"merge", "Merge"},
                                                                                     {"huge", "Huge"},
                                                                                     {"notifier", "Notifier"},
                                                                                     {"clones", "Clones"},
                                                                                     {"policies", "Policies"},
                                                                                     {"cpu_seconds", "CpuSeconds"}}) {
    EXPECT_THAT(description_->Missing(report[part], schema), IsEmpty()) << part;
  }
  EXPECT_EQ(description_->Complaints(Json::parse(ToJson(FullReport().guests)), "Guests"), "");
}

TEST_F(ApiDescriptionTest, NoticesWhatIsNotAsDescribed) {
  Json report = Json::parse(ToJson(FullReport()));
  report["pool"]["new_key"] = 1;
  report["policies"]["merge"] = "maybe";
  report["guests"][0]["name"] = 7;
  report.erase("faults");
  const std::string complaints = description_->Complaints(report, "Report");
  for (const char* part : {"Report.pool.new_key is not described", "\"maybe\", which is not one of its values",
                           "name is 7, no string", "Report has no \"faults\""}) {
    EXPECT_THAT(complaints, ::testing::HasSubstr(part));
  }
}

TEST(ApiPageTest, HasTheNamesOfAllMetrics) {
  std::stringstream page;
  page << std::ifstream("docs/api.md").rdbuf();
  std::set<std::string> described, served;
  for (const absl::string_view word : absl::StrSplit(page.str(), absl::ByAnyChar("`{|, \n"))) {
    if (absl::StartsWith(word, "quire_")) described.insert(std::string(word));
  }
  for (const absl::string_view line : absl::StrSplit(MetricsText(FullReport()), '\n')) {
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ');
    if (!absl::StartsWith(line, "# TYPE ")) continue;
    served.insert(absl::StrCat(words[2], words[3] == "counter" ? "_total" : ""));
  }
  EXPECT_THAT(described, UnorderedElementsAreArray(served));
}

}  // namespace
}  // namespace quire
