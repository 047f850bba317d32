// A run is asked over HTTP, and changed, while it goes on; what it answers is what docs/openapi.yaml describes.
#include <sys/socket.h>

#include <optional>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/run/controlled_run_test.h"
#include "vmm/control/client.h"
#include "vmm/control/http.h"
#include "vmm/control/socket_place.h"
#include "vmm/control/testing/api_description.h"
#include "vmm/options.h"

namespace quire {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

class ApiRunTest : public ControlledRunTest {
 protected:
  void SetUp() override {
    options_.memory = ByteCount::MiB(32);
    options_.pool = ByteCount::MiB(48);
    options_.workload = "zipf:common=0.5";
    description_ = ApiDescription::Load("docs/openapi.yaml");
  }
  HttpAnswer Ask(const std::string& method, const std::string& target, const std::string& body = "") {
    const UniqueFd socket = ConnectTo(*options_.control).value();
    const std::string request =
        absl::StrCat(method, " ", target, " HTTP/1.1\r\nContent-Length: ", body.size(), "\r\n\r\n", body);
    EXPECT_EQ(send(socket.get(), request.data(), request.size(), MSG_NOSIGNAL), static_cast<ssize_t>(request.size()));
    std::string all;
    char bytes[4096];
    for (ssize_t count; (count = recv(socket.get(), bytes, sizeof bytes, 0)) > 0;) {
      all.append(bytes, static_cast<size_t>(count));
    }
    return ParseAnswer(all).value_or(HttpAnswer{.status = 0});
  }
  // What comes is described as a schema of this name.
  Json AskFor(const std::string& schema, const std::string& method, const std::string& target,
              const std::string& body = "") {
    const HttpAnswer answer = Ask(method, target, body);
    EXPECT_EQ(answer.status, 200) << answer.body;
    Json json = Json::parse(answer.body, nullptr, /*allow_exceptions=*/false);
    if (description_.has_value()) {
      EXPECT_EQ(description_->Complaints(json, schema), "");
    }
    return json;
  }
  // The status, and that the sentence has these words.
  void ExpectRefused(int status, const std::string& says, const std::string& method, const std::string& target,
                     const std::string& body = "") {
    const HttpAnswer answer = Ask(method, target, body);
    EXPECT_EQ(answer.status, status) << method << " " << target << " " << body;
    const Json json = Json::parse(answer.body, nullptr, /*allow_exceptions=*/false);
    ASSERT_TRUE(json.is_object() && json.contains("error")) << answer.body;
    EXPECT_THAT(json["error"].get<std::string>(), HasSubstr(says));
  }

  std::optional<ApiDescription> description_;
};

TEST_F(ApiRunTest, WhatItAnswersIsAsDescribed) {
  StartRun();
  // Until both run and something has been stored.
  Json report;
  do {
    report = AskFor("Report", "GET", "/v1/report");
  } while (report["guests"][0]["state"] != "running" || report["guests"][1]["state"] != "running" ||
           report["swap"]["pages_out"] == 0 || report["guests"][0]["operations_per_second"] == 0.0);
  EXPECT_GT(report["elapsed_seconds"], 0.0);
  EXPECT_GT(report["cpu_seconds"]["vcpus"], 0.0) << "of threads that still run";
  const Json guests = AskFor("Guests", "GET", "/v1/guests");
  ASSERT_EQ(guests["guests"].size(), 2u);
  EXPECT_EQ(guests["guests"][1]["name"], "guest-1");
  EXPECT_GT(guests["guests"][1]["faults"], 0u);
  EXPECT_GT(guests["guests"][1]["resident_bytes"], 0u);
  EXPECT_EQ(AskFor("Guest", "GET", "/v1/guests/guest-1")["id"], 1);
  EXPECT_EQ(AskFor("Explanation", "GET", "/v1/explain?guest=0&gfn=17")["gfn"], 17);
  EXPECT_EQ(AskFor("Policies", "GET", "/v1/policies"), (Json{{"merge", "on"}, {"huge", "always"}}));
  const HttpAnswer xml = Ask("GET", "/v1/guests/guest-1/domain-xml");
  EXPECT_EQ(xml.content_type, "application/xml");
  EXPECT_THAT(xml.body, HasSubstr("<domain type='qemu' id='2'>\n  <name>guest-1</name>\n"));
  EXPECT_THAT(xml.body, HasSubstr("<memory unit='KiB'>32768</memory>"));
  EXPECT_THAT(xml.body, HasSubstr("A guest of quire run --workload=zipf:common=0.5"));
  const HttpAnswer metrics = Ask("GET", "/metrics");
  EXPECT_EQ(metrics.content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
  EXPECT_THAT(metrics.body, HasSubstr("\nquire_guest_operations_total{guest=\"guest-1\"} "));
  EXPECT_TRUE(absl::EndsWith(metrics.body, "\n# EOF\n"));
  EXPECT_EQ(Ask("HEAD", "/v1/report").status, 0) << "its body is not as long as it says, since there is none";
  EXPECT_EQ(EndRun(), 0);
}

TEST_F(ApiRunTest, LimitsAndPoliciesChangeWhileItRuns) {
  StartRun();
  Json guest =
      AskFor("Guest", "PATCH", "/v1/guests/0", R"({"pool_limit_bytes": 8388608, "swap_limit_bytes": 67108864})");
  EXPECT_EQ(guest["pool_limit_bytes"], 8388608u);
  EXPECT_EQ(guest["swap_limit_bytes"], 67108864u);
  // It keeps to it soon, and goes on.
  const auto held = [&] { return guest["resident_bytes"].get<uint64_t>() + guest["out_bytes"].get<uint64_t>(); };
  const uint64_t operations = guest["operations"];
  while (guest["state"] != "running" || held() > 8388608 || guest["operations"] < operations + 1000) {
    guest = AskFor("Guest", "GET", "/v1/guests/0");
    ASSERT_NE(guest["state"], "stopped") << guest["exit"];
  }
  EXPECT_GT(AskFor("Report", "GET", "/v1/report")["faults"]["limit_reclaims"], 0u);
  guest = AskFor("Guest", "PATCH", "/v1/guests/0", R"({"pool_limit_bytes": 0})");
  EXPECT_EQ(guest["pool_limit_bytes"], 0u);
  EXPECT_EQ(guest["swap_limit_bytes"], 67108864u) << "what is not named stays";
  const Json off = {{"merge", "off"}, {"huge", "never"}};
  EXPECT_EQ(AskFor("Policies", "PATCH", "/v1/policies", off.dump()), off);
  Json report = AskFor("Report", "GET", "/v1/report");
  EXPECT_EQ(report["policies"], off);
  const Json before = report;
  do {
    report = AskFor("Report", "GET", "/v1/report");
  } while (report["faults"]["total"] < before["faults"]["total"].get<uint64_t>() + 1000);
  EXPECT_EQ(report["merge"]["merged_pages"], before["merge"]["merged_pages"]);
  EXPECT_EQ(AskFor("Policies", "PATCH", "/v1/policies", R"({"merge": "on"})"),
            (Json{{"merge", "on"}, {"huge", "never"}}));
  EXPECT_EQ(EndRun(), 0) << "no wrong byte";
}

TEST_F(ApiRunTest, WhatCannotBeIsRefusedWithAStatusAndASentenceAndChangesNothing) {
  StartRun();
  ExpectRefused(404, "there is no \"/v2\"", "GET", "/v2");
  ExpectRefused(405, "GET, HEAD will do", "PATCH", "/v1/report", "{}");
  EXPECT_EQ(Ask("PUT", "/v1/guests/0").allow, "GET, HEAD, PATCH");
  ExpectRefused(404, "there is no guest 2: the run has guest-0 to guest-1", "GET", "/v1/guests/2");
  ExpectRefused(404, "there is no guest 2", "GET", "/v1/guests/2/domain-xml");
  ExpectRefused(405, "GET, HEAD will do", "PATCH", "/v1/guests/0/domain-xml", "{}");
  ExpectRefused(404, "there is no guest x", "PATCH", "/v1/guests/x", R"({"balloon_bytes": 1})");
  ExpectRefused(400, "its memory ends at page 8192", "GET", "/v1/explain?guest=0&gfn=8192");
  ExpectRefused(400, "there is no page 8192", "POST", "/v1/poison", R"({"guest": 0, "gfn": 8192})");
  ExpectRefused(409, "has no balloon", "PATCH", "/v1/guests/0", R"({"balloon_bytes": 0, "pool_limit_bytes": 8388608})");
  ExpectRefused(409, "has no balloon", "GET", "/v1/guests/0?statistics=fresh");
  ExpectRefused(400, "write 4194304 or more, or 0 for no limit", "PATCH", "/v1/guests/0",
                R"({"swap_limit_bytes": 4096, "pool_limit_bytes": 4194303})");
  ExpectRefused(400, "not a multiple of the page size, 4096: write 4194304", "PATCH", "/v1/guests/0",
                R"({"swap_limit_bytes": 4096, "pool_limit_bytes": 4194305})");
  ExpectRefused(400, "not a multiple", "PATCH", "/v1/guests/0",
                R"({"pool_limit_bytes": 8388608, "swap_limit_bytes": 1})");
  ExpectRefused(400, "is none of its values", "PATCH", "/v1/policies", R"({"huge": "never", "merge": "maybe"})");
  ExpectRefused(413, "at most 16384 bytes", "PATCH", "/v1/policies", std::string(20'000, ' '));
  const Json guest = AskFor("Guest", "GET", "/v1/guests/0");
  EXPECT_EQ(guest["pool_limit_bytes"], 0u);
  EXPECT_EQ(guest["swap_limit_bytes"], 0u);
  EXPECT_EQ(AskFor("Policies", "GET", "/v1/policies")["huge"], "always");
  EXPECT_EQ(EndRun(), 0);
}

TEST_F(ApiRunTest, APoisonedFrameIsReportedAsDescribed) {
  options_.workload = "random";
  options_.merge = Merge::kOff;
  StartRun();
  ExpectRefused(409, "", "POST", "/v1/poison", R"({"frame": 4000000000})");
  // A page that has a frame, and is not taken out before the frame fails.
  std::string was;
  int poisoned = 0;
  for (int gfn = 100; was != "page"; gfn = (gfn + 1) % 8192) {
    const std::string body = absl::StrCat(R"({"guest": "guest-1", "gfn": )", gfn, "}");
    const HttpAnswer answer = Ask("POST", "/v1/poison", body);
    if (answer.status != 200) continue;
    const Json json = Json::parse(answer.body);
    if (description_.has_value()) {
      EXPECT_EQ(description_->Complaints(json, "Poisoned"), "");
    }
    was = json["was"];
    ++poisoned;
  }
  EXPECT_EQ(AskFor("Report", "GET", "/v1/report")["pool"]["poisoned_bytes"], poisoned * kPageSize);
  EndRun();
}

TEST_F(ApiRunTest, WhoCanMakeNoChangeIsTold) {
  options_.overcommit = Overcommit::kStrict;
  options_.memory = ByteCount::MiB(8);
  StartRun();
  ExpectRefused(409, "--overcommit=strict", "PATCH", "/v1/guests/0", R"({"pool_limit_bytes": 8388608})");
  EXPECT_EQ(EndRun(), 0);
  options_.overcommit = Overcommit::kAllow;
  options_.engine = Engine::kKernel;
  StartRun();
  for (const char* target : {"/v1/guests/0", "/v1/policies"}) {
    ExpectRefused(409, "--engine=kernel", "PATCH", target,
                  absl::StrContains(target, "guests") ? R"({"pool_limit_bytes": 0})" : R"({"merge": "on"})");
  }
  ExpectRefused(409, "--engine=kernel", "GET", "/v1/explain?guest=0&gfn=0");
  AskFor("Report", "GET", "/v1/report");
  AskFor("Guest", "GET", "/v1/guests/0");
  EXPECT_EQ(Ask("GET", "/metrics").status, 200);
  EXPECT_EQ(EndRun(), 0);
}

}  // namespace
}  // namespace quire
