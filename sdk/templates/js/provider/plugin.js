// @ts-check
// {{name}}: environments inside the hub, each in a folder with a copy of the project.

import * as waypost from "./sdk/waypost.js";
import * as workspace from "./sdk/workspace.js";
import { health, purposeOf } from "./places.js";

export const provider = waypost.provider({
  create({ environment, settings }) {
    waypost.log.info(`${environment} is made for ${purposeOf(settings)}`);
    return waypost.Place.component(workspace.create(environment));
  },

  reconnect(environment, folder) {
    if (!workspace.exists(folder)) {
      throw waypost.CallError.notFound(`the folder of ${environment} is gone; make a new environment`);
    }
    return waypost.Place.component(folder);
  },

  inspect: (folder) => health(workspace.exists(folder)),

  teardown: (folder) => workspace.remove(folder),
});
