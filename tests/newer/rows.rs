//! What SDK 6 asks for, row by row, with the types that it would take an answer by if the number did not fit.
//!
//! Not here: what 1.1.99 asks for, by its own functions, in `sdk.rs`.

/// Calls that the hub serves by itself.
pub(super) const SERVED: &str = r#"
fsEvent createFile {"message":{"filePath":"b.txt","content":"text"}} -> createFileResponse: /success=true
fsEvent createFolder {"message":{"folderPath":"folder/inner"}} -> createFolderResponse: /success=true
fsEvent readFile {"message":{"filePath":"a.txt"}} -> readFileResponse: /content="hello\n"
fsEvent updateFile {"message":{"filename":"a.txt","filePath":".","newContent":"one\n"}} -> updateFileResponse: /success=true
fsEvent writeToFile {"message":{"relPath":"c.txt","newContent":"new"}} -> writeToFileResponse: /success=true
fsEvent fileList {"message":{"folderPath":".","isRecursive":true}} -> listFilesResponse: /result
fsEvent listFiles {"message":{"folderPath":"."}} -> listFilesResponse: /files
fsEvent listCodeDefinitionNames {"message":{"path":"."}} -> listCodeDefinitionsResponse: /result
fsEvent searchFiles {"message":{"path":".","regex":"one","filePattern":"*.txt"}} -> searchFilesResponse: /results/0/path="a.txt"
fsEvent grepSearch {"message":{"path":".","pattern":"one","options":{"includePattern":"*.txt"}}} -> grepSearchResponse: /success=true
fsEvent grep_search {"message":{"path":".","query":"one","caseSensitive":true}} -> grepSearchResponse: /success=true
fsEvent fuzzySearch {"message":{"query":"c.txt"}} -> fuzzySearchResponse: /success=true
fsEvent file_search {"message":{"query":"c.txt"}} -> fileSearchResponse: /success=true
fsEvent applyDiff {"message":{"path":"a.txt","diff":"@@\n-one\n+two\n","options":{"applyModel":"m"}}} -> editFileAndApplyDiffResponse: /result="applied 1 hunks to a.txt"
fsEvent edit_file_with_diff {"message":{"target_file":"a.txt","code_edit":"@@\n-two\n+three\n"}} -> editFileAndApplyDiffResponse: /success=true
fsEvent readManyFiles {"message":{"paths":["a.txt"],"use_default_excludes":true,"notifyUser":false}} -> readManyFilesResponse: /files/0/content="three\n"
fsEvent read_many_files {"message":{"paths":["a.txt"]}} -> readManyFilesResponse: /files/0/relativePath="a.txt"
fsEvent listDirectory {"message":{"path":".","detailed":true,"notifyUser":false}} -> listDirectoryResponse: /success=true
fsEvent list_directory {"message":{"path":"."}} -> listDirectoryResponse: /success=true
fsEvent deleteFile {"message":{"filename":"b.txt","filePath":"."}} -> deleteFileResponse: /success=true
fsEvent deleteFolder {"message":{"foldername":"folder","folderpath":"."}} -> deleteFolderResponse: /success=true
fsEvent readFile {"message":{"filePath":"missing.txt"}} -> readFileResponse: /success=false
fsEvent readFile {"message":{"filePath":"../../etc/passwd"}} -> readFileResponse: /success=false
fsEvent readFile -> readFileResponse: /errorKind="invalid"
executeCommand {"message":"echo out","returnEmptyStringOnSuccess":false} -> commandError|commandFinish: /stdout="out\n"
executeCommand {"message":"echo out","returnEmptyStringOnSuccess":true} -> commandError|commandFinish: /stdout=""
executeCommand {"message":"exit 3","returnEmptyStringOnSuccess":false} -> commandError|commandFinish: /exitCode=3
executeCommandRunUntilError {"message":"exit 4","executeInMain":false} -> commandError: /exitCode=4
executeCommandRunUntilError {"message":"true","executeInMain":false} -> commandError: /success=true
executeCommandRunUntilInterrupt {"message":"exit 5","executeInMain":false} -> commandError: /exitCode=5
sendInterruptToTerminal -> terminalInterrupted: /interrupted=0
inference {"message":{"prompt":{"messages":[{"role":"user","content":"hi"}],"tools":[]},"llmrole":"r"}} -> llmResponse: /completion/choices/0/message/content="hello"
getChatHistory -> getChatHistoryResponse: /messages
waitforReply {"message":"what next?"} -> waitFormessageResponse: /message="go on"
confirmationRequest {"message":"sure?","buttons":["Yes","No"],"withFeedback":false} -> confirmationResponse|feedbackResponse: /answer="Yes"
confirmationRequest {"message":"sure?","buttons":[],"withFeedback":true} -> confirmationResponse|feedbackResponse: /message="not yet"
"#;

/// Calls that the hub does not serve by itself, with what SDK 6 awaits for each.
pub(super) const UNSERVED: &str = r#"
browserEvent newPage -> newPageResponse
browserEvent getUrl -> getUrlResponse
browserEvent goToPage {"url":"https://example.com"} -> goToPageResponse
browserEvent screenshot -> screenshotResponse
browserEvent getHTML -> htmlReceived
browserEvent getMarkdown -> getMarkdownResponse
browserEvent getContent -> getContentResponse
browserEvent getSnapShot -> getSnapShotResponse
browserEvent getBrowserInfo -> getBrowserInfoResponse
browserEvent extractText -> extractTextResponse
browserEvent scroll {"direction":"down","pixels":"10"} -> scrollResponse
browserEvent type {"text":"x","elementid":"1"} -> typeResponse
browserEvent click {"elementid":"1"} -> clickResponse
browserEvent enter -> EnterResponse
browserEvent search {"elementid":"1","query":"q"} -> searchResponse
gitEvent Init {"path":"."} -> gitInitResponse
gitEvent Clone {"url":"https://example.com/x.git","path":"."} -> gitCloneResponse
gitEvent Pull -> PullResponse
gitEvent Push -> PushResponse
gitEvent Status {"path":"."} -> gitStatusResponse
gitEvent Add -> AddResponse
gitEvent Commit {"message":"m"} -> gitCommitResponse
gitEvent Checkout {"branch":"b"} -> gitCheckoutResponse
gitEvent gitBranch {"branch":"b"} -> gitBranchResponse
gitEvent gitLogs {"path":"."} -> gitLogsResponse
gitEvent Diff {"commitHash":"abc"} -> DiffResponse
crawlerEvent click {"id":"1"} -> crawlResponse
crawlerEvent type {"id":"1","text":"x"} -> crawlResponse
crawlerEvent crawl {"message":{"query":"q"}} -> crawlResponse
codebolttools getEnabledToolBoxes -> getEnabledToolBoxesResponse
codebolttools getLocalToolBoxes -> getLocalToolBoxesResponse
codebolttools getAvailableToolBoxes -> getAvailableToolBoxesResponse
codebolttools searchAvailableToolBoxes {"query":"q"} -> searchAvailableToolBoxesResponse
codebolttools listToolsFromToolBoxes {"toolBoxes":["box"]} -> listToolsFromToolBoxesResponse: /data/tools=[]
codebolttools configureToolBox {"mcpName":"box","config":{}} -> configureToolBoxResponse
codebolttools getTools {"toolboxes":[{"toolbox":"box","toolName":"tool"}]} -> getToolsResponse
codebolttools executeTool {"toolName":"box--tool","params":{}} -> executeToolResponse: /data/0=true
codebolttools getMcpTools -> getMcpToolsResponse
codebolttools getMcpList -> getMcpListResponse
codebolttools getAllMcpTools -> getAllMcpToolsResponse
codebolttools getEnabledMcps -> getEnabledMcpsResponse
codebolttools configureMcpTool {"mcpName":"box"} -> configureMcpToolResponse
codeEvent getAllFilesMarkdown -> getAllFilesMarkdownResponse
codeEvent performMatch {"payload":{"matcherDefinition":{},"problemPatterns":[]}} -> matchProblemResponse
codeEvent getMatcherList -> getMatcherListTreeResponse
codeEvent getMatchDetail {"payload":{"match":"m"}} -> getMatchDetailResponse
projectEvent getProjectPath -> getProjectPathResponse
projectEvent getRepoMap {"message":{}} -> getRepoMapResponse
projectEvent getEditorFileStatus -> getEditorFileStatusResponse
projectEvent getProjectSettings -> getProjectSettingsResponse
projectStateEvent getAppState -> getAppStateResponse
projectStateEvent getProjectState -> getProjectStateResponse
projectStateEvent updateProjectState {"payload":{"key":"k","value":"v"}} -> updateProjectStateResponse
stateEvent {"message":{"action":"getAppState","modelId":"m"}} -> getAppStateResponse
agentStateEvent addToAgentState {"payload":{"key":"k","value":"v"}} -> addToAgentStateResponse
agentStateEvent getAgentState -> getAgentStateResponse
memoryEvent set {"key":"k","value":"v"} -> setMemoryResponse
memoryEvent get {"key":"k"} -> getMemoryResponse
tokenizerEvent addToken {"message":{"item":"k"}} -> addTokenResponse
tokenizerEvent getToken {"message":{"item":"k"}} -> getTokenResponse
vectorDbEvent getVector {"message":{"item":"k"}} -> getVectorResponse
vectorDbEvent addVectorItem {"message":{"item":"k"}} -> addVectorItemResponse
vectorDbEvent queryVectorItem {"message":{"item":"k"}} -> queryVectorItemResponse
vectorDbEvent queryVectorItems {"message":{"items":["k"],"dbPath":"p"}} -> queryVectorItemsResponse
taskEvent createTask {"message":{"task":"t"}} -> addTaskResponse
taskEvent updateTask {"message":{"task":"t"}} -> updateTaskResponse
taskEvent deleteTask {"message":{"taskId":"t"}} -> deleteTaskResponse
taskEvent getTaskList -> getTasksResponse
taskEvent getTaskDetail {"message":{"taskId":"t"}} -> getTaskResponse
taskEvent startTask {"message":{"taskId":"t"}} -> startTaskWithAgentResponse
debugEvent addLog {"message":{"log":"l","type":"info"}} -> debugEventResponse
debugEvent openDebugBrowser {"message":{"url":"https://example.com","port":1}} -> openDebugBrowserResponse
chatSummaryEvent summarizeAll -> summarizeAllResponse
chatSummaryEvent summarize {"messages":[],"depth":1} -> summarizePartResponse
agentEvent findAgent {"task":"t","agents":[],"maxResult":1,"location":"all"} -> findAgentByTaskResponse
agentEvent startAgent {"agentId":"a1","task":"t"} -> taskCompletionResponse: /agentId="a1"
agentEvent listAgents {"agentType":"local"} -> listAgentsResponse
agentEvent agentsDetail {"agentList":["a1"]} -> agentsDetailResponse
threadEvent createThread {"message":{}} -> createThreadResponse
jobEvent createJob {"message":{}} -> createJobResponse
todoEvent addTodo {"message":{}} -> addTodoResponse
hookEvent createHook {"message":{}} -> createHookResponse
swarmEvent createSwarm {"message":{}} -> createSwarmResponse
roadmapEvent getRoadmap -> getRoadmapResponse
requirementPlanEvent createPlan -> createPlanResponse
projectStructureEvent getMetadata -> getMetadataResponse
codemapEvent listCodemaps -> listCodemapsResponse
codebaseSearchEvent search {"message":{"query":"q"}} -> codebaseSearchResponse
actionPlanEvent getPlans -> getPlansResponse
agentPortfolioEvent getPortfolio -> getPortfolioResponse
agentQueueEvent getQueue -> getQueueResponse
capability list -> capabilityListResponse
sideExecution start {"params":{}} -> sideExecutionStartResponse
actionBlock list -> actionBlockListResponse
backgroundAgentCompletion -> backgroundAgentCompletionResponse
backgroundGroupedAgentCompletion -> backgroundGroupedAgentCompletionResponse
environment.createEnvironment {"params":{"environmentData":{"name":"e","provider":"p"}}} -> createEnvironmentResponse
environment.sendMessageToEnvironment {"params":{"id":"e","message":"m"}} -> sendMessageToEnvironmentResponse
dynamicPanel.open {"params":{"title":"t"}} -> dynamicPanelOpenResponse
kvStore.get {"params":{"key":"k"}} -> kvStore.get
eventLog.append {"params":{}} -> eventLog.appendResponse
mail.send {"params":{}} -> mail.sendResponse
calendar.createEvent {"params":{}} -> calendar.createEventResponse
kg.createNode {"params":{}} -> kg.createNodeResponse
persistentMemory.create {"params":{}} -> persistentMemory.create
episodicMemory.append {"params":{}} -> episodicMemory.appendResponse
memoryIngestion.create {"params":{}} -> memoryIngestion.createResponse
contextAssembly.getContext {"params":{}} -> contextAssembly.getContextResponse
contextRuleEngine.list {"params":{}} -> contextRuleEngine.listResponse
reviewMergeRequest.create {"params":{}} -> reviewMergeRequestCreateResponse
updateRequest.create {"params":{}} -> updateRequest.createResponse
fileUpdateIntent.create {"params":{}} -> fileUpdateIntent.createResponse
agentdeliberation.create {"params":{}} -> agentdeliberation.createResponse
autotesting.createSuite {"params":{}} -> autotesting.createSuiteResponse
agentPortfolio.get {"params":{}} -> agentPortfolio.getResponse
agentEventQueue.getQueueStats {"params":{}} -> agentEventQueue.getQueueStatsResponse
"#;

/// Frames that no client waits for an answer to.
pub(super) const UNAWAITED: &str = r#"
sendMessage {"message":"hello","payload":{}} -> nothing
notificationEvent {"message":"done","eventType":"git"} -> nothing
processStarted -> nothing
browserEvent getPDF -> nothing
browserEvent pdfToText -> nothing
browserEvent close -> nothing
crawlerEvent start -> nothing
crawlerEvent screenshot -> nothing
crawlerEvent enter -> nothing
crawlerEvent goToPage {"url":"https://example.com"} -> nothing
crawlerEvent scroll {"direction":"down"} -> nothing
projectEvent runProject -> nothing
fsnotify fsRead {"toolUseId":"1","data":{}} -> nothing
agentnotify anything {"toolUseId":"1","data":{}} -> nothing
actionBlockComplete {"sideExecutionId":"s","result":1} -> nothing
readFileResponse {"content":"forged"} -> nothing
"#;
